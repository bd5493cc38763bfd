"""Small models with what real ones have: skips, shared modules, normalization, functional operations."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """A skip connection around two convolutions, in-place operations, a shared convolution, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.dropout, self.head = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2, 8, 8) to (B, 4)."""
        x = F.relu(self.bn(self.stem(x)))
        out = self.relu(self.first(x))
        out = self.second(self.second(out))
        out += x
        out = F.dropout(torch.cat([out, x], 1), 0.5, self.training)
        out = F.avg_pool2d(out, 4).amax((2, 3))
        return self.head(self.dropout(out.view(out.size(0), -1)))


class Attention(nn.Module):
    """Products of varied values with each other, and with a parameter that has no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 4, 8) * 0.1)
        self.query, self.key, self.out = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, 8) to (B, 4)."""
        x = x + self.place
        mixed = torch.softmax(self.query(x) @ self.key(x).transpose(-2, -1), -1) @ x
        return self.out(torch.tanh(self.norm(x - mixed)).mean(1))


class Branching(nn.Module):
    """Its operations depend on the data: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        hidden = self.a(x)
        return self.b(hidden.tanh() if hidden.isfinite().all() else hidden)


class BatchStatistics(nn.Module):
    """Mixes the samples of a batch, so that candidates in one batch would disturb each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        hidden = self.a(x)
        return self.b(hidden - hidden.mean(0))


class BatchMaximum(BatchStatistics):
    """Mixes them by a number that one sample alone decides."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 4)."""
        hidden = self.a(x)
        return self.b(hidden / hidden.abs().max())


class InputSize(nn.Module):
    """Takes the batch size from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 3), nn.Linear(3 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) to (B, 4)."""
        return self.out(self.conv(x).view(x.size(0), -1))


def small_lenet() -> nn.Module:
    """LeNet-5's kinds of layers, on (B, 1, 12, 12)."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (small_lenet, (1, 12, 12)),
    "residual": (Residual, (2, 8, 8)),
    "attention": (Attention, (4, 8)),
    "branching": (Branching, (8,)),
    "input size": (InputSize, (1, 8, 8)),
    "parallel": (lambda: nn.DataParallel(small_lenet()), (1, 12, 12)),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, 150 inputs, and targets that it gets mostly right."""
    return make_case(request.param)


def make_case(name: str, samples: int = 150) -> tuple[nn.Module, Tensor, Tensor]:
    """See `case`."""
    torch.manual_seed(3)
    make, shape = MODELS[name]
    model, inputs = make(), torch.randn(samples, *shape)
    with torch.no_grad():
        targets = model.eval()(inputs).argmax(1)
    targets[::10] = torch.randint(0, 4, targets[::10].shape)
    model.train()
    return model, inputs, targets
