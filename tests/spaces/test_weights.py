"""One bit a weight: genomes to plans and masks, and back; genomes on disk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.core import Layer
from evoprune.spaces import WeightSpace, pack_bits, unpack_bits

LAYERS = [Layer("conv", "Conv2d", (4, 2, 3, 3)), Layer("one", "Linear", (1, 1)), Layer("fc", "Linear", (5, 7))]


def bits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_genes_are_all_weights() -> None:
    space = WeightSpace(LAYERS)
    assert space.sizes == [72, 1, 35]
    assert space.length == 108


def test_plans_are_views_of_the_right_shapes() -> None:
    genomes = bits(6, 108)
    plans = WeightSpace(LAYERS).plans(genomes)
    assert list(plans) == ["conv", "one", "fc"]
    for layer in LAYERS:
        assert plans[layer.name].shape == (6, *layer.shape)
        assert plans[layer.name].untyped_storage().data_ptr() == genomes.untyped_storage().data_ptr()
    genomes[3, 72] = ~genomes[3, 72]
    assert plans["one"][3, 0, 0] == genomes[3, 72]


def test_sparsity_is_the_share_of_zeros() -> None:
    genomes = bits(5, 108)
    genomes[0], genomes[1] = True, False
    found = WeightSpace(LAYERS).sparsity(genomes)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, 1 - genomes.double().mean(1))


def test_join_is_the_inverse_of_plans_whatever_the_order_of_the_mapping() -> None:
    space, genome = WeightSpace(LAYERS), bits(108)
    masks = {name: plan[0] for name, plan in space.plans(genome[None]).items()}
    assert torch.equal(space.join(masks), genome)
    assert torch.equal(space.join(dict(reversed(masks.items()))), genome)


def test_join_takes_numbers_and_ignores_other_layers() -> None:
    space = WeightSpace(LAYERS[1:])
    values = {layer.name: torch.arange(layer.size, dtype=torch.float32).view(layer.shape) for layer in LAYERS}
    assert space.join(values).tolist() == [0.0, *map(float, range(35))]


@given(st.lists(st.integers(0, 4), max_size=2), st.integers(1, 70), st.integers(0, 1000))
@settings(max_examples=80)
def test_packing_round_trips_for_any_number_of_genes(lead: list[int], genes: int, seed: int) -> None:
    genomes = bits(*lead, genes, seed=seed)
    packed = pack_bits(genomes)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*lead, (genes + 7) // 8)
    unpacked = unpack_bits(packed, genes)
    assert unpacked.dtype == torch.bool
    assert torch.equal(unpacked, genomes)


def test_the_first_gene_is_the_highest_bit() -> None:
    assert pack_bits(torch.tensor([True] + [False] * 8 + [True])).tolist() == [128, 64]


def test_packing_takes_views_that_are_not_contiguous() -> None:
    genomes = bits(20, 13).t()
    assert torch.equal(unpack_bits(pack_bits(genomes), 20), genomes)


def test_unpacking_more_genes_than_there_are_is_refused_by_shape() -> None:
    assert unpack_bits(pack_bits(bits(9)), 16).shape == (16,)
    with pytest.raises(RuntimeError):
        unpack_bits(pack_bits(bits(9)), 17).view(3, 6)
