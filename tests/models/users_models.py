"""Models as users write them, each of which went wrong once; every comment says what is right.

Inputs are images, [S, 1, 28, 28].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormWithActivation(nn.BatchNorm2d):
    """Right: its own forward keeps its tanh (timm's layers are built so). Seen: the tanh was dropped without a word."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


class SubclassedNorm(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, stride=4), NormWithActivation(8)
        self.head = nn.Linear(8 * 49, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).flatten(1))


class FrozenBody(nn.Module):
    """Right: a parameter with requires_grad=False is neither adapted nor meta-learned. Seen: it moved."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Linear(784, 32).requires_grad_(False)
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x.flatten(1))))


class PaddedTokens(nn.Module):
    """Right: the padding row has no gradient in any task, under every task_chunk. Seen: in a chunk's first task alone."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8, padding_idx=0)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x.flatten(1)[:, ::49] * 15).long()
        return self.head(torch.tanh(self.embedding(tokens).mean(1)))


class HeadFirst(nn.Module):
    """Right: the head is the layer that makes the outputs, wherever registered (ANIL, ProtoNet). Seen: the last was taken."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(32, outputs)
        self.body = nn.Linear(784, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x.flatten(1))))


class LogProbabilities(nn.Module):
    """Right: ProtoNet's distances are those of the features, 54.9 % before training, as without the log_softmax. Seen: 29.7 %."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(784, 32), nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.head(torch.relu(self.body(x.flatten(1)))), dim=1)


class FunctionalNorm(nn.Module):
    """Right: batch_norm=support holds, or the model is refused; the label says what is done. Seen: ignored, labelled "none"."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, stride=4), nn.Linear(8 * 49, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(F.batch_norm(self.conv(x), None, None, training=True)).flatten(1))


class Rows(nn.Module):
    """Right: LSTM and GRU train (a loop over tasks where vmap cannot), or one line says what can. Seen: 109 lines of traceback."""

    def __init__(self, outputs: int, kind: str = "LSTM") -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(28, 24, batch_first=True)
        self.head = nn.Linear(24, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.squeeze(1))[0][:, -1])


class Encoder(nn.Module):
    """Right: attention trains at second order (the mathematical backend). Seen: a traceback at step 0, the folder made."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 7, stride=7)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 2)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Temperature(nn.Module):
    """Right: a scalar parameter is a parameter. Seen: IndexError in `flatten(1)` of a leaf [B]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head, self.scale = nn.Linear(784, outputs), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.head(x.flatten(1))


class SharedModule(nn.Module):
    """Right: one module under two names is tied. Seen: "mutating directly with .data under vmap"."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(784, 32)
        self.first = nn.Linear(32, 32)
        self.second = self.first
        self.head = nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(torch.relu(self.inlet(x.flatten(1))))))))


class Pair(nn.Module):
    """Right: one line that says a tensor is wanted and a tuple came. Seen: AttributeError."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.head(x.flatten(1))
        return h, h.softmax(1)


class Branch(nn.Module):
    """Right: one line that names vmap's limit (values decide the course) and the way out. Seen: a raw vmap error."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(784, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x.flatten(1))
        return h if h.mean() > 0 else -h
