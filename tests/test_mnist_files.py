"""The files of MNIST: found, checked and downloaded."""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from common import random_digits

import dataset
from dataset import Mnist, load_mnist
from support.errors import UserError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_file(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder with files like those of MNIST, of 30 and 20 cases, which pass for canonical."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, cases in zip(NAMES, (30, 30, 20, 20), strict=True):
        digits = random_digits(cases, seed=cases)
        array = digits.images if "images" in name else digits.labels.byte()
        (raw / name).write_bytes(idx_file(array.numpy()))
        digest = hashlib.sha256((raw / name).read_bytes()).hexdigest()
        monkeypatch.setitem(dataset.SHA256, name, digest)
    return raw.parent.parent


@pytest.fixture
def raw(small_mnist):
    """Where its files are."""
    return small_mnist / "MNIST" / "raw"


def is_small_mnist(mnist: Mnist) -> bool:
    made = (random_digits(cases, seed=cases) for cases in (30, 20))
    return all(
        torch.equal(getattr(found, field), getattr(digits, field))
        for found, digits in zip(mnist[:2], made, strict=True)
        for field in ("images", "labels")
    )


# Finding them


def test_the_training_and_the_test_set_come_from_their_own_files(small_mnist):
    mnist = load_mnist(small_mnist, "mnist")
    assert is_small_mnist(mnist)
    assert mnist.name == "MNIST"
    assert mnist.test.labels.dtype == torch.int64
    assert mnist.test.indices.tolist() == list(range(20))


def test_the_folder_that_is_given_goes_before_that_of_the_environment(small_mnist, monkeypatch):
    """Both may begin with the home folder."""
    monkeypatch.setenv("HOME", str(small_mnist.parent))
    for folder in (str(small_mnist), "~/data"):
        monkeypatch.setenv("MNIST_DIR", folder)
        assert is_small_mnist(load_mnist(source="auto"))
        monkeypatch.setenv("MNIST_DIR", str(small_mnist / "elsewhere"))
        assert is_small_mnist(load_mnist(folder, "mnist"))


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_whoever_names_a_folder_gets_no_other_data(tmp_path, monkeypatch, source, how):
    """Not the sample, and no folder of a mistyped name."""
    folder = tmp_path / "nowhere"
    if how == "environment":
        monkeypatch.setenv("MNIST_DIR", str(folder))
    with pytest.raises(UserError) as error:
        load_mnist(folder if how == "argument" else None, source)
    assert str(folder) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not folder.exists()


def pack(raw):
    for name in NAMES:
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
        (raw / name).unlink()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize(
    ("place", "named"),
    [
        *[("MNIST/raw", named) for named in (".", "..", "../..")],
        *[("raw", named) for named in (".", "..")],
        (".", "."),
    ],
)
def test_the_files_are_found_from_wherever_in_the_tree(raw, tmp_path, packed, dotted, place, named):
    """Gzipped or not, and under names with a dot; the folder is not written to."""
    if packed:
        pack(raw)
    folder = tmp_path / "kept" / place
    folder.mkdir(parents=True)
    for path in raw.iterdir():
        path.rename(folder / (path.name.replace("-idx", ".idx") if dotted else path.name))
    before = sorted(tmp_path.rglob("*"))
    assert is_small_mnist(load_mnist((folder / named).resolve(), "mnist"))
    assert sorted(tmp_path.rglob("*")) == before


def beside_folders(raw):
    """With a dash, as some archives unpack; the files have a dot."""
    for name in NAMES:
        (raw / name).rename(raw / name.replace("-idx", ".idx"))
        (raw / name).mkdir()


def packed_without_an_ending(raw):
    pack(raw)
    for name in NAMES:
        (raw / f"{name}.gz").rename(raw / name)


def unpacked_with_an_ending(raw):
    for name in NAMES:
        (raw / name).rename(raw / f"{name}.gz")


def beside_data_of_an_old_torchvision(raw):
    (raw.parent / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        tensors = (torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5).long())
        torch.save(tensors, raw.parent / "processed" / name)


ARRANGEMENTS = [
    *(lambda raw: raw, pack, beside_folders, packed_without_an_ending, unpacked_with_an_ending),
    beside_data_of_an_old_torchvision,
]


@pytest.mark.parametrize("torchvision", [True, False])
@pytest.mark.parametrize("arrange", ARRANGEMENTS)
def test_whole_files_are_found_by_what_is_in_them(
    small_mnist, raw, monkeypatch, arrange, torchvision
):
    arrange(raw)
    if not torchvision:
        break_torchvision(monkeypatch, None)
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


def test_a_single_missing_file_is_not_made_up(small_mnist, raw, monkeypatch):
    """Neither by data of an old torchvision."""
    beside_data_of_an_old_torchvision(raw)
    (raw / NAMES[2]).unlink()
    for source in ("auto", "mnist"):
        with pytest.raises(UserError, match=NAMES[2]):
            load_mnist(small_mnist, source)
    monkeypatch.setattr(dataset, "HERE", small_mnist.parent)
    assert load_mnist(source="auto").name == "sample"


# Damaged files


DAMAGES = {
    "longer": lambda whole: whole + b"\0",
    "shorter": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
    "one bit": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "a cut archive": lambda whole: gzip.compress(whole)[:-9],
    "no archive": lambda whole: gzip.compress(whole)[:20] + whole,
}


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_file_of_mnist_is_named(small_mnist, raw, source, name, damage):
    (raw / name).write_bytes(DAMAGES[damage]((raw / name).read_bytes()))
    with pytest.raises(UserError, match=f"{name} is corrupt"):
        load_mnist(small_mnist, source)


# Torchvision and the download


BROKEN = [RuntimeError("no torchvision::nms"), AttributeError("a"), OSError("b"), SyntaxError("c")]


def break_torchvision(monkeypatch, error):
    """It raises `error` when it is imported; without one it is not installed."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise error

    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    if error:
        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, "torchvision.datasets", None)


@pytest.mark.parametrize("error", [None, *BROKEN], ids=repr)
def test_without_torchvision_auto_takes_the_sample(tmp_path, monkeypatch, error):
    monkeypatch.setattr(dataset, "HERE", tmp_path)
    break_torchvision(monkeypatch, error)
    assert load_mnist(source="auto").name == "sample"
    with pytest.raises(UserError, match="torchvision cannot be imported"):
        load_mnist(tmp_path / "nowhere", "mnist")


def test_a_download_is_seen_by_others_only_when_it_is_whole(small_mnist, tmp_path, monkeypatch):
    """Whatever torchvision does meanwhile: it works in a folder of its own."""
    import torchvision.datasets

    target = tmp_path / "new" / "data"
    (tmp_path / "new").mkdir()

    class Slow:
        def __init__(self, root, download):
            assert download
            raw = Path(root) / "MNIST" / "raw"
            raw.mkdir(parents=True)
            for path in (small_mnist / "MNIST" / "raw").iterdir():
                (raw / path.name).write_bytes(b"half")
                assert not list(target.rglob("*"))
                (raw / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(torchvision.datasets, "MNIST", Slow)
    assert is_small_mnist(load_mnist(target, "auto"))
    assert sorted(path.name for path in target.rglob("*-ubyte")) == sorted(NAMES)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"]
