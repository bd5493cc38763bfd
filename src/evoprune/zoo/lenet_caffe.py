"""LeNet-5 Caffe, or 20-50-500: the form of Caffe's MNIST example (lenet.prototxt; Jia et al., "Caffe", 2014).

Papers since Han et al., "Learning both weights and connections", NIPS 2015, prune this form rather than the one of
1998. Its convolutions are linear: the only nonlinearities are the max-pools and one ReLU.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LeNet5Caffe"]


class LeNet5Caffe(nn.Module):
    """430,500 weights in four layers, 431,080 parameters with the biases, which papers count too.

    Its prunable layers are feature.0, feature.2, classifier.1 and classifier.3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feature = nn.Sequential(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2),  # (B, 20, 12, 12)
            nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),  # (B, 50, 4, 4)
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) images to (B, 10) logits."""
        logits: Tensor = self.classifier(self.feature(images))
        return logits
