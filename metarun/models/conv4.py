"""The four-layer convolutional network of few-shot learning."""

from typing import Literal

from torch import Tensor, nn

from metarun import checks
from metarun.models.norm import TaskBatchNorm


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm and ReLU, then a linear head.

    Args:
        input_shape: (channels, height, width).
        num_outputs: classes of a task.
        width: channels of each block.
        downsample: "stride" halves the image by a stride of 2 (Omniglot in Finn et al. 2017), "max_pool" by pooling
            after the ReLU (mini-ImageNet).
        head: "flatten" the last map, or take its spatial "mean" before the linear layer.
        norm: "batch", "group" (8 groups, independent of other examples) or "none".
    Source: Vinyals et al. 2016; Finn et al. 2017, section 5.2. Order convolution, norm, ReLU. Xavier-uniform weights of
        gain 1.73 with biases U(0, 0.05) are the iMAML code's; here weights are He-normal and biases zero.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_outputs: int,
        width: int = 64,
        downsample: Literal["stride", "max_pool"] = "stride",
        head: Literal["flatten", "mean"] = "flatten",
        norm: Literal["batch", "group", "none"] = "batch",
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(f"conv4 needs images (channels, height, width), got inputs of shape {tuple(input_shape)}")
        channels, rows, columns = input_shape
        for name, sizes in (("input_shape", input_shape), ("num_outputs", [num_outputs]), ("width", [width])):
            for size in sizes:
                checks.integer(name, size, minimum=1)
        checks.one_of("downsample", downsample, ("stride", "max_pool"))
        checks.one_of("head", head, ("flatten", "mean"))
        checks.one_of("norm", norm, ("batch", "group", "none"))
        layers: list[nn.Module] = []
        for _ in range(4):
            layers.append(nn.Conv2d(channels, width, 3, stride=2 if downsample == "stride" else 1, padding=1))
            layers += {
                "batch": lambda: [TaskBatchNorm(width)],
                "group": lambda: [nn.GroupNorm(8, width)],
                "none": list,
            }[norm]()
            layers.append(nn.ReLU())
            if downsample == "max_pool":
                layers.append(nn.MaxPool2d(2))
                rows, columns = rows // 2, columns // 2
            else:
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
            channels = width
        if rows * columns == 0:
            raise ValueError(f"conv4 with max_pool needs images of at least 16x16, got {input_shape}")
        self.features = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d((rows, columns)) if head == "mean" else nn.Identity()
        self.head = nn.Linear(width if head == "mean" else width * rows * columns, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[S, channels, height, width] -> logits [S, num_outputs]."""
        return self.head(self.pool(self.features(images)).flatten(1))
