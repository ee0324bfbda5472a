from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mcbook as mc

Arrays = dict[str, np.ndarray]


def mnist_like(train: int = 6, test: int = 4) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, 28, 28), dtype=np.uint8),
        "y_train": np.arange(train) % 10,
        "x_test": rng.integers(0, 256, (test, 28, 28), dtype=np.uint8),
        "y_test": np.arange(test) % 10,
    }


def packed(arrays: Arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


# digits -------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_each_once(digits: mc.Data) -> None:
    from sklearn.datasets import load_digits

    raw = load_digits()
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    ours = torch.cat([digits.train.x, digits.test.x]).reshape(1797, 64) * 16
    labels = torch.cat([digits.train.y, digits.test.y])
    found = sorted((*row, y) for row, y in zip(ours.tolist(), labels.tolist(), strict=True))
    expected = sorted((*row, y) for row, y in zip(raw.data.tolist(), raw.target, strict=True))
    assert found == expected


def test_digits_are_float32_images_in_0_1_and_int64_labels(digits: mc.Data) -> None:
    for split in (digits.train, digits.test):
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.x.shape == (len(split), 1, 8, 8)
        assert (float(split.x.min()), float(split.x.max())) == (0.0, 1.0)
    assert digits.shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")


def test_the_split_is_stratified_and_always_the_same(digits: mc.Data) -> None:
    for label in range(10):
        train = int((digits.train.y == label).sum())
        test = int((digits.test.y == label).sum())
        assert abs(test - (train + test) * 500 / 1797) < 1
    again = mc.load_data("digits", device="cpu")
    assert again.fingerprint == digits.fingerprint
    assert torch.equal(again.train.x, digits.train.x)
    assert torch.equal(again.test.y, digits.test.y)


@pytest.mark.usefixtures("offline", "same_random_state")
def test_digits_need_no_network_and_no_global_randomness() -> None:
    mc.load_data("digits", device="cpu").subset(train=10, seed=3).with_label_noise(0.5)


def test_digits_are_resized_and_repeated_for_networks_that_want_it(digits: mc.Data) -> None:
    large = mc.load_data("digits", device="cpu", size=32, channels=3)
    assert large.shape == (3, 32, 32)
    assert 0 <= float(large.train.x.min()) < float(large.train.x.max()) <= 1
    assert torch.equal(large.test.x[:, 0], large.test.x[:, 2])
    assert torch.equal(large.test.y, digits.test.y)
    # bilinear keeps the mean brightness but for the edges
    means = large.test.x.mean((1, 2, 3)) - digits.test.x.mean((1, 2, 3))
    assert float(means.abs().max()) < 0.05
    grey = mc.load_data("digits", device="cpu", size=8, channels=1)
    assert grey.fingerprint == digits.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "at least 1 pixel, found 0"),
        ({"size": -4}, "at least 1 pixel, found -4"),
        ({"channels": 2}, "1 or 3 channels, found 2"),
        ({"channels": 0}, "1 or 3 channels, found 0"),
    ],
)
def test_sizes_no_image_can_have_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mc.load_data("digits", device="cpu", **options)


def test_an_unknown_data_set_or_split_offers_the_close_names(digits: mc.Data) -> None:
    with pytest.raises(mc.UnknownNameError, match=r"unknown data set 'digit'.*'digits'"):
        mc.load_data("digit")
    with pytest.raises(mc.UnknownNameError, match=r"unknown split 'trian'.*'train'"):
        digits.split("trian")
    assert digits.split("train") is digits.train
    assert digits.split("test") is digits.test
    assert mc.list_data() == ["cifar10", "cifar100", "digits", "mnist"]


def test_data_cannot_be_changed_and_shows_no_images(digits: mc.Data) -> None:
    with pytest.raises(FrozenInstanceError):
        digits.name = "other"  # the assignment is the test
    shown = repr(digits)
    assert "1297" in shown
    assert "500" in shown
    assert len(shown) < 120


def test_the_same_data_on_another_device(tiny: mc.Data) -> None:
    there = tiny.to("meta")
    assert there.train.x.device.type == "meta"
    assert there.test.y.device.type == "meta"
    assert there.fingerprint == tiny.fingerprint
    assert tiny.train.x.device.type == "cpu"


# parts and noise ----------------------------------------------------------------------------


@given(st.integers(1, 70), st.integers(1, 30), st.integers(0, 2**31))
def test_a_subset_is_so_many_images_each_once(
    tiny: mc.Data, train: int, test: int, seed: int
) -> None:
    part = tiny.subset(train=train, test=test, seed=seed)
    assert (len(part.train), len(part.test)) == (train, test)
    assert part.fingerprint != tiny.fingerprint
    whole = [(tuple(x), y) for x, y in zip(tiny.train.x.flatten(1).tolist(), tiny.train.y.tolist(),
                                           strict=True)]  # fmt: skip
    for x, y in zip(part.train.x.flatten(1).tolist(), part.train.y.tolist(), strict=True):
        whole.remove((tuple(x), y))


def test_a_subset_follows_from_its_seed(digits: mc.Data) -> None:
    first, again, other = (digits.subset(train=50, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.train.x, again.train.x)
    assert first.fingerprint == again.fingerprint
    assert not torch.equal(first.train.x, other.train.x)
    assert first.fingerprint != other.fingerprint
    assert torch.equal(first.test.x, digits.test.x)


@pytest.mark.parametrize("count", [0, -1, 71])
def test_a_subset_larger_than_the_data_is_refused(tiny: mc.Data, count: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 70 training images, found {count}"):
        tiny.subset(train=count)
    with pytest.raises(ValueError, match="between 1 and 30 test images, found 31"):
        tiny.subset(test=31)


@given(st.floats(0, 1), st.integers(0, 2**31))
def test_label_noise_makes_exactly_so_many_training_labels_wrong(
    tiny: mc.Data, fraction: float, seed: int
) -> None:
    before = tiny.train.y.clone()
    noisy = tiny.with_label_noise(fraction, seed)
    changed = noisy.train.y != tiny.train.y
    assert int(changed.sum()) == round(fraction * 70)
    assert 0 <= int(noisy.train.y.min()) <= int(noisy.train.y.max()) < 10
    assert torch.equal(noisy.test.y, tiny.test.y)
    assert torch.equal(noisy.train.x, tiny.train.x)
    assert torch.equal(tiny.train.y, before)
    assert noisy.fingerprint != tiny.fingerprint


def test_wrong_labels_are_uniform_over_the_other_classes(digits: mc.Data) -> None:
    counts = torch.zeros(10)
    for seed in range(8):
        noisy = digits.with_label_noise(1.0, seed)
        counts += torch.bincount((noisy.train.y - digits.train.y) % 10, minlength=10)
    assert counts[0] == 0
    expected = 8 * 1297 / 9
    # five standard deviations of a count
    assert float((counts[1:] - expected).abs().max()) < 5 * expected**0.5


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_of_labels_outside_0_1_is_refused(tiny: mc.Data, fraction: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\], found"):
        tiny.with_label_noise(fraction)


# arrays of one's own ------------------------------------------------------------------------


def test_arrays_become_data_pixel_by_pixel() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    y = np.array([0, 2, 1], dtype=np.uint8)
    data = mc.data_from_arrays(x, y, x[:1], y[:1], name="mine")
    assert data.train.x.shape == (3, 3, 4, 5)
    assert data.classes == ("0", "1", "2")
    for i, row, column, channel in np.ndindex(3, 4, 5, 3):
        expected = int(x[i, row, column, channel]) / 255
        assert abs(float(data.train.x[i, channel, row, column]) - expected) < 1e-7
    assert data.train.y.tolist() == [0, 2, 1]


def test_the_fingerprint_follows_from_images_and_labels() -> None:
    arrays = mnist_like()
    first = mc.data_from_arrays(**arrays).fingerprint
    assert mc.data_from_arrays(**mnist_like()).fingerprint == first
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert mc.data_from_arrays(**arrays, name="other").fingerprint == first
    for key in arrays:
        changed = {**arrays, key: arrays[key].copy()}
        changed[key].flat[0] += 1
        assert mc.data_from_arrays(**changed).fingerprint != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((6, 28, 28))}, r"x_train to be uint8 .* found float64 \[6, 28, 28\]"),
        ({"x_test": np.zeros((4, 28), np.uint8)}, r"x_test to be uint8 .* found uint8 \[4, 28\]"),
        ({"y_train": np.arange(5)}, r"y_train to be 6 integers, found int64 \[5\]"),
        ({"y_test": np.ones(4)}, r"y_test to be 4 integers, found float64 \[4\]"),
        ({"y_test": np.array([0, 1, 2, -1])}, "found labels from -1 to 5"),
        ({"y_test": np.array([0, 1, 2, 10])}, r"from 0 to 9 \(10 classes\), found labels .* to 10"),
        (
            {"x_test": np.zeros((4, 28, 27), np.uint8)},
            r"one shape, found \[28, 28\] and \[28, 27\]",
        ),
        (
            {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, int)},
            "at least one image in x_test, found none",
        ),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(
    change: Arrays, message: str, tmp_path: Path
) -> None:
    arrays = {**mnist_like(), **change}
    with pytest.raises(ValueError, match=message):
        mc.data_from_arrays(**arrays, classes=tuple("0123456789"))
    (tmp_path / "mnist.npz").write_bytes(packed(arrays))
    with pytest.raises(mc.DamagedFileError, match=r"mnist\.npz: "):
        mc.load_data("mnist", root=tmp_path, device="cpu")


def test_grey_levels_above_white_are_refused() -> None:
    with pytest.raises(ValueError, match="grey levels up to 16, found"):
        mc.data_from_arrays(**mnist_like(), white=16)


# archives -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_an_archive_is_found_by_argument_by_variable_and_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MCBOOK_DATA", raising=False)
    for folder in ("argument", "variable", "cache/mcbook"):
        (tmp_path / folder).mkdir(parents=True)
    arrays = mnist_like()
    for i, folder in enumerate(("argument", "variable", "cache/mcbook")):
        arrays["x_train"][0, 0, 0] = i
        (tmp_path / folder / "mnist.npz").write_bytes(packed(arrays))

    def pixel(**options: object) -> int:
        data = mc.load_data("mnist", device="cpu", **options)
        return round(float(data.train.x[0, 0, 0, 0]) * 255)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert pixel() == 2
    monkeypatch.setenv("MCBOOK_DATA", str(tmp_path / "variable"))
    assert pixel() == 1
    assert pixel(root=tmp_path / "argument") == 0
    assert pixel(root=str(tmp_path / "argument")) == 0


def test_coloured_archives_have_their_channels_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    arrays = {"x_train": x, "y_train": np.arange(4), "x_test": x[:2], "y_test": np.arange(2)}
    (tmp_path / "cifar10.npz").write_bytes(packed(arrays))
    data = mc.load_data("cifar10", root=tmp_path, device="cpu")
    assert data.shape == (3, 32, 32)
    assert data.classes[0] == "airplane"
    np.testing.assert_allclose(data.train.x[1, 2].numpy(), x[1, :, :, 2] / 255, atol=1e-6)
    grey = mc.load_data("cifar10", root=tmp_path, device="cpu", channels=1)
    np.testing.assert_allclose(grey.train.x[1, 0].numpy(), x[1].mean(2) / 255, atol=1e-6)
    assert grey.fingerprint != data.fingerprint


def damaged_archives() -> dict[str, tuple[bytes, str]]:
    """Every way in which a file is not an archive, and what the error must speak of."""
    whole, arrays = packed(mnist_like()), mnist_like()
    entry = whole.index(b"PK\x01\x02")  # the first line of the archive's table of contents

    def patched(offset: int, value: int) -> bytes:
        return whole[: entry + offset] + bytes([value]) + whole[entry + offset + 1 :]

    lone = io.BytesIO()
    np.save(lone, arrays["x_train"])
    middle = len(whole) // 3
    other = {"images": arrays["x_train"], "labels": arrays["y_train"]}
    return {
        "empty": (b"", "damaged"),
        "text": (b"<html>404 not found</html>", "damaged"),
        "cut off": (whole[:-40], "damaged"),
        "half": (whole[: len(whole) // 2], "damaged"),
        "a pickle": (pickle.dumps(arrays), "damaged"),
        "one byte wrong": (
            whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "damaged",
        ),
        "a lone array": (lone.getvalue(), "expected"),
        "said to be encrypted": (patched(8, 1), "damaged"),
        "said to be packed in an unknown way": (patched(10, 99), "damaged"),
        "said to be of a later version": (patched(6, 250), "damaged"),
        "other names": (packed(other), "x_train, y_train, x_test, y_test, found images, labels"),
        "no arrays": (packed({}), "found none"),
        "other images": (
            packed({**arrays, "x_train": np.zeros((6, 8, 8), np.uint8)}),
            r"shape \[28, 28\], found \[8, 8\]",
        ),
    }


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("case", damaged_archives())
def test_a_damaged_archive_is_named_with_what_is_wrong(tmp_path: Path, case: str) -> None:
    content, message = damaged_archives()[case]
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(mc.DamagedFileError, match=message) as caught:
        mc.load_data("mnist", root=tmp_path, device="cpu")
    assert str(tmp_path / "mnist.npz") in str(caught.value)


def test_an_archive_cut_off_anywhere_is_damaged(tmp_path: Path) -> None:
    whole = packed(mnist_like(2, 1))
    for length in range(0, len(whole), 97):
        (tmp_path / "mnist.npz").write_bytes(whole[:length])
        with pytest.raises(mc.DamagedFileError):
            mc.load_data("mnist", root=tmp_path, device="cpu")


class Trap:
    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["TRAP"],)


def test_objects_in_an_archive_are_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    arrays = {**mnist_like(), "y_train": np.array([Trap()] * 6, dtype=object)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    (tmp_path / "mnist.npz").write_bytes(stream.getvalue())
    with pytest.raises(mc.DamagedFileError, match="mnist"):
        mc.load_data("mnist", root=tmp_path, device="cpu")
    assert not (tmp_path / "sprung").exists()


# downloads ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_missing_and_offline_names_the_file_and_the_three_ways(tmp_path: Path) -> None:
    with pytest.raises(mc.MissingDataError) as caught:
        mc.load_data("cifar10", root=tmp_path, device="cpu")
    said = str(caught.value)
    assert str(tmp_path / "cifar10.npz") in said
    for part in ("(1)", "(2)", "(3)", "root=", "MCBOOK_DATA", "x_train, y_train", "digits"):
        assert part in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_missing_without_torchvision_names_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(mc.MissingDataError) as caught:
        mc.load_data("mnist", root=tmp_path, device="cpu")
    said = str(caught.value)
    assert str(tmp_path / "mnist.npz") in said
    assert "torchvision" in said
    assert "MCBOOK_DATA" in said


class Source:
    """Stands in for torchvision's data sets."""

    def __init__(self, fail_on_test: bool = False):
        self.made, self.fail_on_test = 0, fail_on_test
        self.datasets = SimpleNamespace(MNIST=self.mnist)

    def mnist(self, folder: str, train: bool, download: bool) -> SimpleNamespace:
        assert download
        assert Path(folder).is_dir()
        self.made += 1
        if self.fail_on_test and not train:
            raise RuntimeError("File not found or corrupted.")
        arrays, part = mnist_like(), "train" if train else "test"
        return SimpleNamespace(
            data=torch.from_numpy(arrays[f"x_{part}"]), targets=arrays[f"y_{part}"].tolist()
        )


def test_a_download_is_kept_as_one_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    monkeypatch.setattr(sys.modules["mcbook.models.library"], "library", lambda _: source)
    first = mc.load_data("mnist", root=tmp_path / "new", device="cpu")
    assert source.made == 2
    again = mc.load_data("mnist", root=tmp_path / "new", device="cpu")
    assert source.made == 2
    expected = mc.data_from_arrays(**mnist_like())
    assert first.fingerprint == again.fingerprint == expected.fingerprint
    assert os.listdir(tmp_path / "new") == ["mnist.npz"]


def test_a_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["mcbook.models.library"], "library", lambda _: Source(True))
    with pytest.raises(mc.MissingDataError, match="corrupted"):
        mc.load_data("mnist", root=tmp_path, device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_the_default_device_is_cuda_or_the_cpu() -> None:
    assert mc.default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_digits_do_not_differ_between_processes(digits: mc.Data) -> None:
    child = "import mcbook as mc; print(mc.load_data('digits', device='cpu').fingerprint)"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", child], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digits.fingerprint
