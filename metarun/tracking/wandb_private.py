"""What metarun needs of wandb and wandb does not offer publicly; tests/test_private_interfaces.py says when it breaks.

`wandb` is imported when a function is called, not before.
"""

import contextlib


def has_key(base_url: str) -> bool:
    """Whether credentials are configured for the server, by wandb's own rules; asks neither user nor network.

    `wandb.login` would ask, and `wandb.Api` knows less: not every place that wandb takes a key from.
    """
    from wandb.sdk.lib.wbauth import authenticate_session

    auth = authenticate_session(host=base_url, source="metarun", prompt=False, verify=False, update_session=False)
    return auth is not None


def report_nothing_home() -> None:
    """Stop wandb's own telemetry: its thread waits up to 30 s at exit when the network is dead.

    Versions without this module have no such thread.
    """
    with contextlib.suppress(ImportError):
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()
