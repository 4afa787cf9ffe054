"""What tests need of wandb and wandb does not offer publicly; tests/test_private_interfaces.py says when it breaks."""

from wandb.proto.wandb_internal_pb2 import Record, RunRecord
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

__all__ = ["Record", "RunRecord", "create_sweep_command", "create_sweep_command_args"]
