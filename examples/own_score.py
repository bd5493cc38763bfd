"""Prune by any function of the model: here a regression network, scored by how much of the variance it explains."""

import torch
from torch import Tensor, nn

import evoprune

rng = torch.Generator().manual_seed(0)
x = torch.rand(1000, 8, generator=rng)
y = (x[:, :1] * 3 - x[:, 1:2] ** 2).detach()  # only two of the eight inputs matter

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(300):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[:800]), y[:800]).backward()
    optimizer.step()


def explained(candidate: nn.Module, inputs: Tensor = x[800:], targets: Tensor = y[800:]) -> float:
    """Higher is better, 1 at best; nothing else is asked of a score."""
    with torch.no_grad():
        return float(1 - (candidate(inputs) - targets).square().mean() / targets.var())


def show(result: evoprune.Result, how: str) -> None:
    kept = result.masks["0"].sum(dim=0).tolist()
    print(f"{how}: R2 {explained(model):.3f} -> {result.score:.3f} at {result.sparsity:.1%} sparsity")
    print(f"  weights kept of each input's 32: {kept}")


# A function shows no data, so nothing but the weights' sizes can say where to begin; the score decides.
result = evoprune.prune(model, explained, guidance="magnitude", max_drop=5)  # in points: R2 may fall by 0.05
show(result, "without fine-tuning")

# With training data and a loss the model can be trained while it is pruned; the score keeps watch over the floor.
result = evoprune.prune(
    model,
    explained,
    train=(x[:800], y[:800]),
    loss=nn.functional.mse_loss,
    guidance="gradient",
    batch_size=50,
    finetune_epochs=20,  # of 16 steps each: there is little data
    final_epochs=60,
    max_drop=5,
)
show(result, "with fine-tuning")
