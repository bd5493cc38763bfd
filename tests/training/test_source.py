"""Training batches: every sample once an epoch, the same order for the same seed, nothing left behind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from evoprune.core import EvopruneError
from evoprune.training import LoaderSource, TensorSource, as_source, first_batches, first_samples
from evoprune.training import source as source_module


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(samples: int = 20) -> tuple[Tensor, Tensor]:
    """Every sample says its number, in its input and in its target."""
    return torch.arange(samples, dtype=torch.float32)[:, None].repeat(1, 3), torch.arange(samples)


def order(source: Any, seed: int = 0) -> list[int]:
    return [int(target) for _, targets, _ in source.batches(rng(seed)) for target in targets]


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 1000))
@settings(max_examples=60)
def test_an_epoch_is_every_sample_once_with_its_target(samples: int, batch_size: int, seed: int) -> None:
    source = TensorSource(*data(samples), batch_size)
    batches = list(source.batches(rng(seed)))
    assert len(batches) == source.steps
    sizes = [len(targets) for _, targets, _ in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert all(torch.equal(inputs[:, 0].long(), targets) for inputs, targets, _ in batches)
    assert sorted(int(t) for _, targets, _ in batches for t in targets) == list(range(samples))


def test_the_order_follows_the_generator_alone() -> None:
    source = TensorSource(*data(), 4)
    assert order(source, 1) == order(source, 1) == order(TensorSource(*data(), 4), 1)
    assert order(source, 1) != order(source, 2)
    before = torch.get_rng_state()
    order(source)
    assert torch.equal(before, torch.get_rng_state())


def test_shifts_move_the_image_and_bring_the_fill_in() -> None:
    image = torch.arange(1.0, 17).view(1, 1, 4, 4)
    source = TensorSource(image.repeat(200, 1, 1, 1), torch.arange(200), 200, shift=1, fill=torch.full((1, 1, 1), -5.0))
    ((inputs, *_),) = source.batches(rng())
    padded = torch.nn.functional.pad(image[0, 0] + 5, (1,) * 4) - 5
    possible = {tuple(padded[r : r + 4, c : c + 4].flatten().tolist()) for r in range(3) for c in range(3)}
    assert {tuple(row.flatten().tolist()) for row in inputs} == possible


def test_flips_mirror_about_every_second_image() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    source = TensorSource(image.repeat(200, 1, 1, 1), torch.arange(200), 200, flip=True)
    ((inputs, *_),) = source.batches(rng())
    mirrored = [bool(torch.equal(row, image[0].flip(2))) for row in inputs]
    assert all(flip or torch.equal(row, image[0]) for row, flip in zip(inputs, mirrored, strict=True))
    assert 60 < sum(mirrored) < 140


@pytest.mark.parametrize("sizes", [(0, 0), (3, 2)])
def test_no_data_or_unequal_data_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(EvopruneError, match="at least one"):
        TensorSource(torch.zeros(sizes[0], 2), torch.zeros(sizes[1]).long(), 4)


@pytest.mark.parametrize("loader", ["shuffle", "generator", "sampler", "sampler with generator"])
def test_a_data_loader_gives_every_sample_once_in_an_order_of_our_seed(loader: str) -> None:
    def made() -> DataLoader[Any]:
        dataset, own = TensorDataset(*data()), rng(int(torch.randint(10**6, ())))
        if loader == "shuffle":
            return DataLoader(dataset, 3, shuffle=True)
        if loader == "generator":
            return DataLoader(dataset, 3, shuffle=True, generator=own)
        sampler = RandomSampler(dataset, generator=own if "generator" in loader else None)
        return DataLoader(dataset, 3, sampler=sampler)

    source = LoaderSource(made())
    assert source.steps == 7
    first = order(source, 1)
    assert sorted(first) == list(range(20))
    torch.manual_seed(5)
    assert order(source, 1) == first
    assert order(source, 2) != first
    torch.manual_seed(6)
    assert order(LoaderSource(made()), 1) == first


class Noisy(Dataset[tuple[Tensor, int]]):
    """Augments with all three global random states."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= 6:
            raise IndexError
        return torch.tensor([torch.rand(()), np.random.rand(), random.random()]), index  # noqa: NPY002


def global_states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_augmentation_in_the_users_data_is_repeatable_and_leaves_no_trace() -> None:
    source = LoaderSource(DataLoader(Noisy(), 2))
    before = global_states()
    first = torch.cat([inputs for inputs, *_ in source.batches(rng(3))])
    assert global_states() == before
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    second = torch.cat([inputs for inputs, *_ in source.batches(rng(3))])
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.cat([inputs for inputs, *_ in source.batches(rng(4))]))
    assert len(first.unique()) == first.numel()


def test_what_the_model_draws_between_batches_is_not_disturbed() -> None:
    source = LoaderSource(DataLoader(Noisy(), 2, shuffle=True))
    torch.manual_seed(0)
    expected = [float(torch.rand(())) for _ in range(3)]
    torch.manual_seed(0)
    assert [float(torch.rand(())) for _ in source.batches(rng())] == expected


def test_the_loaders_own_generator_is_put_back() -> None:
    own = rng(4)
    loader, before = DataLoader(TensorDataset(*data()), 3, shuffle=True, generator=own), own.get_state()
    order(LoaderSource(loader))
    assert torch.equal(own.get_state(), before)


class Lengthless:
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(data()[0].split(4), data()[1].split(4), strict=True)


@pytest.mark.parametrize("batches", [Lengthless(), list(Lengthless())], ids=["no length", "list"])
def test_any_iterable_of_batches_will_do(batches: Any) -> None:
    source = as_source(batches, 8)
    assert source.steps == 5
    assert order(source) == order(source) == list(range(20))


def test_an_empty_loader_is_refused() -> None:
    for empty in ([], Lengthless.__new__(type("Empty", (), {"__iter__": lambda _: iter(())}))):
        with pytest.raises(EvopruneError, match="no batches"):
            as_source(empty, 4)


def test_batches_that_come_only_once_are_refused() -> None:
    class Once:
        left = iter(Lengthless())

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return self.left

        def __len__(self) -> int:
            return 5

    source = as_source(Once(), 8)
    assert len(list(source.batches(rng()))) == 5
    with pytest.raises(EvopruneError, match="gave no batches when it was iterated again"):
        list(source.batches(rng()))


@pytest.mark.parametrize(
    "batch",
    [torch.zeros(3), 5, (1, 2, 3), {"image": torch.zeros(3), "label": 1}, ((torch.zeros(3),), torch.zeros(3))],
    ids=["tensor", "number", "three", "dict of two", "inputs that are a tuple"],
)
def test_batches_that_are_no_pairs_are_refused(batch: Any) -> None:
    with pytest.raises(EvopruneError, match=r"\(inputs, targets\)") as error:
        list(as_source([batch], 4).batches(rng()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given_", [None, 5, object(), iter([])])
def test_what_is_no_data_is_refused(given_: Any) -> None:
    with pytest.raises(EvopruneError, match="training data"):
        as_source(given_, 4)


def test_a_pair_of_tensors_becomes_shuffled_batches_and_a_source_stays() -> None:
    source = as_source(data(), 6)
    assert isinstance(source, TensorSource)
    assert source.steps == 4
    assert as_source(source, 99) is source
    assert as_source(list(data()), 6).steps == 4


@pytest.mark.parametrize("count", [1, 7, 20, 100])
def test_first_samples_are_pairs_and_always_the_same(count: int) -> None:
    loader = DataLoader(TensorDataset(*data()), 3, shuffle=True)
    for given_ in (data(), loader):
        source = as_source(given_, 4)
        inputs, targets = first_samples(source, count)
        assert len(inputs) == len(targets) == min(count, 20)
        assert len(set(targets.tolist())) == len(targets)
        assert torch.equal(inputs[:, 0].long(), targets)
        before = torch.get_rng_state()
        assert torch.equal(first_samples(source, count)[1], targets)
        assert torch.equal(before, torch.get_rng_state())


def test_first_samples_of_batches_padded_to_different_lengths_are_those_like_the_first() -> None:
    batches = [(torch.ones(4, length), torch.arange(4)) for length in (5, 7, 5, 6)]
    inputs, targets = first_samples(as_source(batches, 4), 8)
    assert inputs.shape == (8, 5)
    assert targets.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_cutout_fills_one_square_in_each_image() -> None:
    source = TensorSource(torch.ones(300, 2, 8, 8), torch.arange(300), 300, cutout=3, fill=torch.full((2, 1, 1), -5.0))
    ((inputs, *_),) = source.batches(rng())
    cut = inputs == -5
    assert torch.equal(inputs == 1, ~cut)
    assert torch.equal(cut[:, 0], cut[:, 1])
    rows, columns = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert torch.equal(cut[:, 0].sum((1, 2)), rows * columns), "a full rectangle"
    assert set(rows.tolist()) == {2, 3}, "cut at the edge where its centre is the first or last row"
    assert torch.equal(inputs[0], next(iter(source.batches(rng()))).inputs[0])


def test_an_augmented_source_has_the_same_samples() -> None:
    plain = TensorSource(torch.rand(20, 2, 4, 4, generator=rng()), torch.arange(20), 8)
    chosen: dict[str, Any] = {"shift": 1, "flip": True, "cutout": 2}
    expected = TensorSource(plain.inputs, plain.targets, 8, **chosen)
    for left, right in zip(plain.augmented(**chosen).batches(rng()), expected.batches(rng()), strict=True):
        assert torch.equal(left.inputs, right.inputs)
        assert torch.equal(left.targets, right.targets)
    with pytest.raises(EvopruneError, match=r"need images \(N, C, H, W\); the training data is \(20, 32\)"):
        TensorSource(plain.inputs.flatten(1), plain.targets, 8).augmented(**chosen)


def test_a_generator_of_a_batch_sampler_follows_our_seed() -> None:
    def epoch(drawn_before: int) -> list[int]:
        own = torch.Generator().manual_seed(drawn_before)
        sampler = BatchSampler(RandomSampler(range(20), generator=own), 4, drop_last=False)  # type: ignore[arg-type]
        loader = DataLoader(TensorDataset(torch.arange(20.0)[:, None], torch.arange(20)), batch_sampler=sampler)
        before = own.get_state()
        order = [int(t) for _, targets, _ in as_source(loader, 4).batches(rng(0)) for t in targets]
        assert torch.equal(own.get_state(), before)
        return order

    assert epoch(1) == epoch(2)


def test_workers_that_live_on_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(4, 1), torch.zeros(4)), 2, num_workers=1, persistent_workers=True)
    as_source(loader, 2)
    assert "keep their random state from epoch to epoch" in caplog.text


def test_kept_logits_of_the_teacher_belong_to_their_samples() -> None:
    source = TensorSource(*data(), 6)
    source.cache_teacher_logits(nn.Identity())
    assert all(torch.equal(logits, inputs) for inputs, _, logits in source.batches(rng()))


@pytest.mark.parametrize("chosen", [{"shift": 1}, {"flip": True}, {"cutout": 2}], ids=str)
def test_of_images_that_are_augmented_no_logits_are_kept(chosen: dict[str, Any]) -> None:
    source = TensorSource(torch.rand(8, 1, 4, 4), torch.arange(8), 4, **chosen)
    source.cache_teacher_logits(nn.Flatten())
    assert source.teacher_logits is None


def test_neither_a_teacher_nor_a_model_changes_the_data() -> None:
    class Erasing(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.zero_()

    source, batches = TensorSource(*data(), 6), [(torch.ones(2, 3), torch.zeros(2))]
    source.cache_teacher_logits(Erasing())
    assert torch.equal(source.inputs, data()[0])
    for inputs, _, _ in as_source(batches, 2).batches(rng()):
        inputs.zero_()
    assert batches[0][0].all()


def test_few_samples_are_looked_at_where_each_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "SAMPLES_BYTES", 5 * (4 * 10 + 8))
    inputs, targets = first_samples(TensorSource(torch.zeros(20, 10), torch.zeros(20).long(), 4), 12)
    assert (len(inputs), len(targets)) == (5, 5)
    monkeypatch.setattr(source_module, "SAMPLES_BYTES", 1)
    assert len(first_samples(TensorSource(torch.zeros(20, 10), torch.zeros(20).long(), 4), 12)[0]) == 2


@pytest.mark.parametrize(("room", "kept"), [(20 * 3 * 4, True), (20 * 3 * 4 - 1, False)])
def test_logits_of_a_teacher_are_kept_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, room: int, kept: bool
) -> None:
    monkeypatch.setattr(source_module, "LOGITS_BYTES", room)
    source = TensorSource(torch.randn(20, 10), torch.zeros(20).long(), 4)
    source.cache_teacher_logits(nn.Linear(10, 3))
    assert (source.teacher_logits is not None) is kept


def test_a_loader_that_may_never_end_is_spoken_of(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("evoprune.training.source.MANY", 3)
    assert LoaderSource(Lengthless()).steps == len(list(Lengthless()))
    assert "has no length, and its batches are counted, 3 so far" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("count", "sizes"), [(1, [6]), (13, [6, 6, 6]), (99, [6, 6, 6])])
def test_the_first_batches_are_those_that_are_trained_on_but_for_a_small_last_one(count: int, sizes: list[int]) -> None:
    source = LoaderSource(list(zip(data(20)[0].split(6), data(20)[1].split(6), strict=True)))
    found = first_batches(source, count)
    assert [len(batch) for batch in found] == sizes
    wanted = [inputs for inputs, *_ in source.batches(rng())]
    assert all(torch.equal(batch, other) for batch, other in zip(found, wanted, strict=False))


def test_the_first_batches_are_fewer_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "SAMPLES_BYTES", 100)
    assert len(first_batches(TensorSource(*data(20), 6), 99)) == 2, "60 bytes each"
