"""Prune a small model of one's own with a score built from a DataLoader."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import evoprune

rng = torch.Generator().manual_seed(0)
centres = 2 * torch.randn(4, 20, generator=rng)  # four classes, each a cloud of points around a centre


def loader(samples: int) -> DataLoader:
    targets = torch.randint(4, (samples,), generator=rng)
    inputs = centres[targets] + torch.randn(samples, 20, generator=rng)
    return DataLoader(TensorDataset(inputs, targets), batch_size=100)


train, val, test = loader(2000), loader(500), loader(500)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(2):
    for inputs, targets in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

result = evoprune.prune(model, evoprune.accuracy(val), train=train, test=evoprune.accuracy(test), sparsity=0.9)
dense, pruned = result.summary["dense"], result.summary["pruned"]
print(f"sparsity {result.sparsity:.1%}; test accuracy {dense['test_score']:.1%} -> {pruned['test_score']:.1%}")
for name, mask in result.masks.items():
    print(f"  layer {name}: {int(mask.sum())} of {mask.numel()} weights stay")
