"""The first convolution of a network for many candidates' filters, with the activation and pooling behind it.

Where only the filters differ, every candidate multiplies the same image patches, so they are unfolded once and
kept, and a block of candidates is one matrix product. The patches come in the order that suits what follows: the
four places of a 2x2 pooling window are four separate stretches, so pooling adds long rows instead of hopping from
pixel to pixel; a last row of ones carries the bias; and tanh(x) = 2 sigmoid(2x) - 1 has its inner factor in the
weights and its outer one behind the pooling, on a quarter of the numbers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Activation", "FirstConv", "Patches", "Pool", "suits"]

Activation = Literal["tanh", "relu"] | None
Pool = Literal["mean", "max"] | None


class Patches(NamedTuple):
    """What candidates share of a batch of images.

    Attributes:
        rows: (B, I + 1, windows * H * W), `windows` 4 with pooling, else 1; the last row is ones.
        size: (H, W) of what comes out, pooled.
    """

    rows: Tensor
    size: tuple[int, int]


def suits(module: nn.Module) -> bool:
    """Whether a convolution is faster as a matrix product over unfolded patches.

    With one to three channels in and few out, blocked convolution kernels leave most of their lanes empty:
    LeNet-5's first layer is 2.5 times faster as a matrix product (AVX2, float32).
    """
    return (
        type(module) is nn.Conv2d
        and module.in_channels <= 3
        and module.out_channels <= 32
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


class FirstConv:
    """One convolution, the activation and the 2x2 pooling after it.

    Args:
        module: it `suits`.
        activation: what follows it, if anything.
        pool: non-overlapping 2x2 windows, after the activation.
    """

    def __init__(self, module: nn.Conv2d, activation: Activation, pool: Pool) -> None:
        self.module, self.activation, self.pool = module, activation, pool

    def patches(self, images: Tensor) -> Patches:
        """(B, C, H, W) images, unfolded."""
        module = self.module
        rows = F.unfold(images, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
        height, width = module._conv_forward(images[:1], module.weight, None).shape[2:]
        if self.pool is not None:
            rows = rows.unflatten(2, (height, width))[:, :, : height // 2 * 2, : width // 2 * 2]
            height, width = height // 2, width // 2
            rows = rows.unflatten(3, (width, 2)).unflatten(2, (height, 2)).permute(0, 1, 3, 5, 2, 4).flatten(2)
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        return Patches(rows, (int(height), int(width)))

    def numel(self, candidates: int, patches: Patches) -> int:
        """Numbers in the largest value on the way."""
        return candidates * self.module.out_channels * len(patches.rows) * patches.rows.shape[2]

    def __call__(self, weight: Tensor, patches: Patches) -> Tensor:
        """Candidates' filters (P, O, C, kernel height, kernel width) -> (P*B, O, H, W)."""
        candidates, out = weight.shape[:2]
        bias = self.module.bias
        column = weight.new_zeros(out) if bias is None else bias.detach()
        filters = torch.cat([weight.flatten(2), column.expand(candidates, out)[..., None]], dim=2)
        if self.activation == "tanh":
            filters = 2 * filters
        result = torch.matmul(filters.flatten(0, 1), patches.rows)  # (B, P*O, windows*H*W)
        if self.activation == "tanh":
            result.sigmoid_()
        elif self.activation == "relu":
            result.relu_()
        result = result.view(len(result), candidates, out, -1, patches.size[0] * patches.size[1])
        ordered = self._pooled(result)
        if self.activation == "tanh":
            ordered.mul_(0.5 if self.pool == "mean" else 2).sub_(1)
        elif self.pool == "mean":
            ordered.mul_(0.25)
        return ordered.view(-1, out, *patches.size)

    def _pooled(self, values: Tensor) -> Tensor:
        """(B, P, O, windows, H*W) -> (P, B, O, H*W), the windows' sum or maximum."""
        batch, candidates, out, _, pixels = values.shape
        ordered = values.new_empty(candidates, batch, out, pixels)
        target = ordered.transpose(0, 1)
        a, *others = values.unbind(3)
        if not others:
            return target.copy_(a).transpose(0, 1)
        join = torch.add if self.pool == "mean" else torch.maximum
        b, c, d = others
        join(join(join(a, b), c), d, out=target)
        return ordered
