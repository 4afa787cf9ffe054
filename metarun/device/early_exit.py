"""Whether a loop may look at its values to leave early."""

from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def may_read_values(like: Tensor) -> bool:
    """Whether asking a tensor beside `like` for its value, to leave a loop early, costs nothing.

    It does on a CPU. A GPU would be waited for; and while operations are traced (`metarun.algorithm.compiled`) there are no
    values yet, so what is traced must be the whole loop.
    """
    return like.device.type == "cpu" and get_proxy_mode() is None
