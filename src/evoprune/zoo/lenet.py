"""LeNet-5, after LeCun et al., "Gradient-based learning applied to document recognition" (1998)."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LeNet5"]


class LeNet5(nn.Module):
    """The form that the pruning literature uses for 28x28 digits: 61,470 weights in five layers.

    Its prunable layers are feature.0, feature.3, classifier.1, classifier.3 and classifier.5.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feature = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),  # (B, 6, 14, 14)
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),  # (B, 16, 5, 5)
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) images to (B, 10) logits."""
        logits: Tensor = self.classifier(self.feature(images))
        return logits
