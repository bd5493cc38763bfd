"""Names, splits, normalization, and models that do not fit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evoprune.core import EvopruneError
from evoprune.zoo import Data, check_data_fits, data, load_data
from evoprune.zoo.data import stratified_cut
from evoprune.zoo.images import Images

from .conftest import WriteSplit, images, png


@pytest.fixture(scope="module")
def sample() -> Data:
    return load_data("mnist-sample")


def test_mnist_sample_is_cut_in_three_without_overlap(sample: Data) -> None:
    assert [len(split) for split in (sample.train, sample.val, sample.test)] == [3500, 500, 1000]
    assert sample.train.inputs.shape == (3500, 1, 28, 28)
    assert sample.train.inputs.dtype == torch.float32
    assert sample.classes == 10
    for split, each in ((sample.train, 350), (sample.val, 50), (sample.test, 100)):
        assert split.targets.bincount().tolist() == [each] * 10
    rows = torch.cat([split.inputs for split in (sample.train, sample.val, sample.test)]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == 5000


def test_pixels_are_normalized_by_the_training_split(sample: Data) -> None:
    inputs = sample.train.inputs.double()
    assert abs(float(inputs.mean())) < 1e-5
    assert abs(float(inputs.std(correction=0)) - 1) < 1e-5
    pixels = sample.test.inputs * sample.std[0] + sample.mean[0]
    assert float(pixels.min()) == pytest.approx(0, abs=1e-6)
    assert float(pixels.max()) == pytest.approx(1, abs=1e-6)
    assert torch.allclose(pixels * 255, (pixels * 255).round(), atol=1e-3)


def test_the_seed_moves_the_validation_split_and_never_the_test_split(sample: Data) -> None:
    same, other = load_data("mnist-sample"), load_data("mnist-sample", seed=1)
    assert torch.equal(same.val.inputs, sample.val.inputs)
    assert torch.equal(other.test.targets, sample.test.targets)
    assert not torch.equal(other.val.inputs, sample.val.inputs)


def test_stratified_cut_takes_each_class_by_its_share() -> None:
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)[torch.randperm(100)]
    rest, cut = stratified_cut(labels, 30, seed=3)
    assert sorted([*rest.tolist(), *cut.tolist()]) == list(range(100))
    counts = labels[cut].bincount(minlength=3)
    assert all(abs(int(count) - share) <= 1 for count, share in zip(counts, (21, 6, 3), strict=True))
    assert len(cut) == 30


def test_a_folder_is_named_after_itself(folder: Path, write: WriteSplit) -> None:
    write("train")
    write("test", start=50)
    data = load_data(str(folder), val_size=4)
    assert data.name == "digits"
    assert (len(data.train), len(data.val), len(data.test)) == (12, 4, 16)
    assert data.val.targets.bincount().tolist() == [2, 2]
    assert len(load_data(str(folder)).val) == 2  # an eighth
    for size in (0, 16):
        with pytest.raises(EvopruneError, match=f"val_size is {size} but must be from 1 to 15"):
            load_data(str(folder), val_size=size)


def test_a_single_training_image_cannot_be_cut(folder: Path, write: WriteSplit) -> None:
    write("train", labels=[0])
    write("test", labels=[0])
    with pytest.raises(EvopruneError, match="has one image; a part of it is held out as validation"):
        load_data(str(folder))


def test_a_channel_that_never_changes_is_no_division_by_zero(folder: Path, write: WriteSplit) -> None:
    flat = png(np.zeros((8, 8), np.uint8))
    for split in ("train", "test"):
        write(split, labels=[0, 1] * 8, image=images(*[flat] * 16))
    assert not load_data(str(folder)).train.inputs.any()


def test_unknown_names() -> None:
    with pytest.raises(
        EvopruneError, match=r"neither a folder nor one of mnist-sample, mnist, cifar10.*mean mnist-sample"
    ):
        load_data("mnist-sampel")
    with pytest.raises(EvopruneError, match="'/no/such/folder' is neither"):
        load_data("/no/such/folder")


def test_a_named_data_set_is_taken_from_the_cache(
    data_folder: Path, folder: Path, write: WriteSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    write("mnist/train")
    write("mnist/test")
    data_folder.mkdir()
    folder.rename(data_folder / "mnist")
    data = load_data("mnist")
    assert data.name == "mnist"
    assert len(data.test) == 16


def test_a_named_data_set_is_downloaded_once(
    data_folder: Path, folder: Path, write: WriteSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, *, repo_type: str, allow_patterns: str, local_dir: Path) -> None:
        asked.append((repository, repo_type, allow_patterns))
        write("plain_text/train")
        write("plain_text/test")
        shutil.copytree(folder / "plain_text", local_dir / "plain_text")

    (data_folder / "cifar10").mkdir(parents=True)  # an earlier download was broken off
    shutil.copy(write("train-00000-of-00001"), data_folder / "cifar10")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert len(load_data("cifar10").test) == len(load_data("cifar10").test) == 16
    assert asked == [("uoft-cs/cifar10", "dataset", "*.parquet")]


def test_without_a_network_the_error_says_what_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(EvopruneError, match=r"ConnectionError.*--data DIR.*mnist-sample") as caught:
        load_data("mnist")
    assert "\n" not in str(caught.value)


def test_a_model_that_fits_is_left_as_found(tiny: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(36), nn.Linear(36, 3))
    model[1].eval()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_data_fits(model, tiny)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(3, 4, 3), r"\(1, 6, 6\) of data tiny: .*expected input.* to have 3 channels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(20, 2)), r"\(1, 6, 6\) of data tiny: RuntimeError: mat1 and mat2"),
        (nn.Conv2d(1, 2, 3), r"gives \(2, 2, 4, 4\) .* must give \(batch, classes\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), "has 1 outputs but data tiny has 2 classes"),
    ],
)
def test_models_that_do_not_fit(model: nn.Module, message: str, tiny: Data) -> None:
    with pytest.raises(EvopruneError, match=message) as caught:
        check_data_fits(model, tiny)
    assert "\n" not in str(caught.value)


def test_black_is_what_a_black_pixel_becomes(sample: Data) -> None:
    assert float(sample.black) == pytest.approx(float(sample.train.inputs.min()), abs=1e-5)


@pytest.mark.parametrize(("count", "held_out"), [(39_992, 4999), (60_000, 5000)])
def test_no_more_than_5000_images_are_held_out(monkeypatch: pytest.MonkeyPatch, count: int, held_out: int) -> None:
    pixels = (torch.arange(count) % 256).to(torch.uint8).view(-1, 1, 1, 1)
    images = Images(pixels, (torch.arange(count) % 10), 10)
    monkeypatch.setattr(data, "_read", lambda name: (name, images, images))
    found = load_data("many")
    assert (len(found.train), len(found.val)) == (count - held_out, held_out)
