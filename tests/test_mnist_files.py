"""The files of MNIST: found, checked and downloaded."""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from common import MNIST_ROOT, random_digits

import dataset
from dataset import Mnist, load_mnist
from support import mnist_files
from support.errors import UserError
from support.mnist_files import read_mnist

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_file(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
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


def is_small_mnist(mnist: Mnist) -> bool:
    return all(
        torch.equal(found.images, made.images) and torch.equal(found.labels, made.labels)
        for found, made in zip(
            mnist[:2], (random_digits(30, 30), random_digits(20, 20)), strict=True
        )
    )


# Finding them


def test_the_training_and_the_test_set_come_from_their_own_files(small_mnist):
    mnist = load_mnist(small_mnist, "mnist")
    assert is_small_mnist(mnist)
    assert mnist.name == "MNIST"
    assert mnist.test.labels.dtype == torch.int64
    assert mnist.test.indices.tolist() == list(range(20))


def test_mnist_is_looked_for_in_the_folder_that_the_environment_names(small_mnist, monkeypatch):
    monkeypatch.setenv("MNIST_DIR", str(small_mnist))
    assert is_small_mnist(load_mnist(source="auto"))


def test_a_folder_that_is_given_goes_before_that_of_the_environment(
    small_mnist, tmp_path, monkeypatch
):
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "elsewhere"))
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


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


def pack(folder):
    for name in NAMES:
        path = folder / "MNIST" / "raw" / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


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
def test_the_files_are_found_from_wherever_in_the_tree(
    small_mnist, tmp_path, packed, dotted, place, named
):
    """Gzipped or not, and under names with a dot; the folder is not written to."""
    if packed:
        pack(small_mnist)
    folder = tmp_path / "kept" / place
    folder.mkdir(parents=True)
    for path in (small_mnist / "MNIST" / "raw").iterdir():
        path.rename(folder / (path.name.replace("-idx", ".idx") if dotted else path.name))
    before = sorted(tmp_path.rglob("*"))
    assert is_small_mnist(load_mnist((folder / named).resolve(), "mnist"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_the_user_is_expanded(small_mnist, monkeypatch):
    monkeypatch.setenv("HOME", str(small_mnist.parent))
    assert is_small_mnist(load_mnist("~/data", "mnist"))
    monkeypatch.setenv("MNIST_DIR", "~/data")
    assert is_small_mnist(load_mnist(source="auto"))


def test_a_whole_copy_is_taken_although_another_is_being_written(small_mnist):
    """As by a program that unpacks beside the archive."""
    raw = small_mnist / "MNIST" / "raw"
    whole = (raw / NAMES[0]).read_bytes()
    (raw / f"{NAMES[0]}.gz").write_bytes(gzip.compress(whole))
    (raw / NAMES[0]).write_bytes(whole[:100])
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


def test_a_single_missing_file_is_not_made_up(small_mnist, tmp_path, monkeypatch):
    (small_mnist / "MNIST" / "raw" / NAMES[2]).unlink()
    for source in ("auto", "mnist"):
        with pytest.raises(UserError, match=NAMES[2]):
            load_mnist(small_mnist, source)
    monkeypatch.setattr(dataset, "HERE", small_mnist.parent)
    assert load_mnist(source="auto").name == "sample"


# Damaged files


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["longer", "shorter", "empty", "one bit"])
def test_a_corrupt_file_of_mnist_is_named(small_mnist, source, name, damage):
    path = small_mnist / "MNIST" / "raw" / name
    whole = path.read_bytes()
    path.write_bytes(
        {
            "longer": whole + b"\0",
            "shorter": whole[:-1],
            "empty": b"",
            "one bit": whole[:-1] + bytes([whole[-1] ^ 1]),
        }[damage]
    )
    with pytest.raises(UserError, match=f"{name} is corrupt"):
        load_mnist(small_mnist, source)


@pytest.mark.parametrize("source", ["auto", "mnist"])
def test_a_corrupt_archive_that_stops_the_unpacking_is_named(tmp_path, source):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is corrupt"):
        load_mnist(tmp_path, source)


def test_a_corrupt_copy_of_mnist_is_named(mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in read_mnist(MNIST_ROOT).items():
        (raw / name).write_bytes(content)
    with open(raw / NAMES[0], "r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x55\xaa")
    with pytest.raises(UserError, match=f"{NAMES[0]} is corrupt"):
        load_mnist(tmp_path, "auto")


# Torchvision and the download


def break_torchvision(monkeypatch, how):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    if how != "missing":  # it raises when it is imported

        def refuse(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise RuntimeError("operator torchvision::nms does not exist")

        monkeypatch.delitem(sys.modules, "torchvision.datasets")
        monkeypatch.delitem(sys.modules, "torchvision", raising=False)
        finder = type("Finder", (), {"find_spec": refuse})()
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])


@pytest.mark.parametrize("broken", ["missing", "torch and torchvision do not go together"])
def test_without_torchvision_auto_takes_the_sample(tmp_path, monkeypatch, broken):
    monkeypatch.setattr(dataset, "HERE", tmp_path)
    break_torchvision(monkeypatch, broken)
    assert load_mnist(source="auto").name == "sample"


@pytest.mark.parametrize("broken", ["missing", "torch and torchvision do not go together"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_that_are_there_need_no_torchvision(small_mnist, monkeypatch, broken, packed):
    if packed:
        pack(small_mnist)
    break_torchvision(monkeypatch, broken)
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


def test_data_that_an_old_torchvision_left_beside_the_files_are_not_read(small_mnist):
    old = small_mnist / "MNIST" / "processed"
    old.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5).long()), old / name)
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


def test_data_of_an_old_torchvision_are_not_read_where_the_files_are_missing(small_mnist):
    (small_mnist / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        tensors = (torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5).long())
        torch.save(tensors, small_mnist / "MNIST" / "processed" / name)
    (small_mnist / "MNIST" / "raw" / NAMES[0]).unlink()
    with pytest.raises(UserError, match=NAMES[0]):
        load_mnist(small_mnist, "auto")


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


def test_a_folder_with_the_name_of_a_file_is_passed_over(small_mnist):
    """As some archives unpack: a folder with a dash beside the file with a dot."""
    raw = small_mnist / "MNIST" / "raw"
    for name in NAMES:
        (raw / name).rename(raw / name.replace("-idx", ".idx"))
        (raw / name).mkdir()
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_in_a_file_counts_and_not_how_its_name_ends(small_mnist, packed):
    raw = small_mnist / "MNIST" / "raw"
    for name in NAMES:
        content = (raw / name).read_bytes()
        (raw / name).unlink()
        target = raw / name if packed else raw / f"{name}.gz"
        target.write_bytes(gzip.compress(content) if packed else content)
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


def test_of_two_copies_the_one_that_can_be_read_is_taken(small_mnist, monkeypatch):
    raw = small_mnist / "MNIST" / "raw"
    (raw / f"{NAMES[0]}.gz").write_bytes(gzip.compress((raw / NAMES[0]).read_bytes()))
    read_file = mnist_files.read_file

    def refuse(path, size):
        if path == raw / NAMES[0]:
            raise UserError(f"cannot read {path}: Permission denied")
        return read_file(path, size)

    monkeypatch.setattr(mnist_files, "read_file", refuse)
    assert is_small_mnist(load_mnist(small_mnist, "mnist"))


@pytest.mark.parametrize("error", [AttributeError("a"), OSError("libc10.so"), SyntaxError("b")])
def test_whatever_a_broken_torchvision_raises_is_the_reason(tmp_path, monkeypatch, error):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise error

    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(UserError, match="torchvision cannot be imported"):
        load_mnist(tmp_path / "nowhere", "mnist")
