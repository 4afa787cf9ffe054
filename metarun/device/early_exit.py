"""Whether an iterative solver may leave its loop early, for which it reads values from the device."""

from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def may_read_values(like: Tensor) -> bool:
    """Whether values of a tensor on the device of `like` can be read without waiting, to leave a loop early.

    They can on a CPU. On a GPU the process would wait for the device; and while operations are traced
    (`metarun.algorithm.compiled`) there are no values yet, so the whole loop must be traced.
    """
    return like.device.type == "cpu" and get_proxy_mode() is None
