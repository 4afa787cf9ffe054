"""What metarun needs of Hydra and Hydra does not offer publicly; tests/test_private_interfaces.py says when it breaks."""

import argparse

from hydra._internal.utils import get_args_parser


def flags_parser() -> argparse.ArgumentParser:
    """Hydra's own parser of its flags (`-m`, `--cfg`, ...) and of the overrides between them."""
    return get_args_parser()
