"""Whether W&B would be online here, by its own settings; asks neither the user nor the network."""

from dataclasses import dataclass

from metarun.tracking.wandb_private import has_key, report_nothing_home


@dataclass(frozen=True, kw_only=True)
class WandbAccount:
    """What W&B has been told on this machine.

    Attributes:
        mode: online, offline, disabled, ..., by WANDB_MODE or `wandb offline`.
        server: the address that runs are sent to.
        has_key: whether credentials for it are configured.
    """

    mode: str
    server: str
    has_key: bool


def wandb_account() -> WandbAccount:
    """Read W&B's settings.

    Raises:
        Exception: whatever W&B raises where it cannot be imported or its settings cannot be read.
    """
    import wandb

    report_nothing_home()
    settings = wandb.setup(wandb.Settings(silent=True)).settings
    return WandbAccount(mode=str(settings.mode), server=str(settings.base_url), has_key=has_key(settings.base_url))
