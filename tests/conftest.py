"""Fixtures: the data, a tiny teacher, the scripts called in process, and a clean state around."""

import functools
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from common import MNIST_ROOT, ROOT, everything_in, split_words

import dataset
import evaluate
import explore
import train
from dataset import Digits, Mnist, load_mnist
from support.page import page
from support.script import run_script


def refuse_network(*_: Any, **__: Any) -> None:
    raise OSError("the tests have no network")


read_sample = dataset._load_sample


@functools.cache
def sample_in(path: Path) -> Mnist:
    """Read once, not by every call of a script."""
    return read_sample()


@pytest.fixture(autouse=True)
def clean_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, a working directory of its own, and torch as it was before."""
    monkeypatch.setattr(socket, "getaddrinfo", refuse_network)
    monkeypatch.setattr(socket.socket, "connect", refuse_network)
    monkeypatch.setattr(dataset, "_load_sample", lambda: sample_in(dataset.SAMPLE))
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: None
    )  # these files need not outlive a crash
    monkeypatch.setenv("COLUMNS", "250")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(signum) for signum in signals]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(random)
    for signum, handler in zip(signals, handlers, strict=True):
        signal.signal(signum, handler)


def mnist_is_here() -> bool:
    raw = MNIST_ROOT / "MNIST" / "raw"
    return all((raw / n).is_file() or (raw / f"{n}.gz").is_file() for n in dataset.SHA256)


@pytest.fixture(scope="session")
def mnist() -> Mnist:
    if not mnist_is_here():
        pytest.skip(f"MNIST is not in {MNIST_ROOT}")
    return load_mnist(MNIST_ROOT, "mnist")


@pytest.fixture(scope="session")
def sample() -> Mnist:
    return load_mnist(source="sample")


@pytest.fixture(scope="session")
def some_digits(sample: Mnist) -> Digits:
    """500 real digits, 50 of each."""
    return sample.training[:500]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """call(script, *words): what `python script.py words` does, on the sample, in this process."""

    def call_main(script: ModuleType, *words: object) -> None:
        line = split_words(*words)
        if "--data" not in line:
            line += ["--data", "sample"]
        if "--device" not in line and script not in (evaluate, explore):
            line += ["--device", "cpu"]
        monkeypatch.setattr("sys.argv", [f"{script.__name__}.py", *line])
        script.main()

    return call_main


@pytest.fixture
def stops(
    call: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """stops(script, *words): exit status, stdout and stderr of the script, called in process."""

    def call_script(script: ModuleType, *words: object) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_script(lambda: call(script, *words))
        out, err = capsys.readouterr()
        return SimpleNamespace(status=stop.value.code or 0, out=out, err=err)

    return call_script


@pytest.fixture
def refused(stops: Callable[..., SimpleNamespace], tmp_path: Path) -> Callable[..., str]:
    """refused(script, *words, naming="flag file"): one line with these words; no file changes.

    It returns the line.
    """

    def call_script(script: ModuleType, *words: object, naming: str = "") -> str:
        before = everything_in(tmp_path)
        stop = stops(script, *words)
        (line,) = stop.err.splitlines()
        assert stop.status == 2 and line.startswith("error: ")
        assert all(word in line for word in naming.split()), line
        assert everything_in(tmp_path) == before
        return line

    return call_script


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny cumbersome net that makes about 110 errors on the sample."""
    path = tmp_path_factory.mktemp("teacher") / "cumbersome_model_60.pt"
    words = "--model cumbersome --hidden-units 60 --epochs 8 --init-std 0.05 --dropout-hidden 0.2"
    line = split_words("train.py", words, "--data sample --device cpu --quiet --output", path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", line)
        train.main()
    return path


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The page of the published nets: its file, what it carries, and the data it is made from.

    MNIST if it is here, else the sample.
    """
    if not all(path.exists() for path in explore.PUBLISHED):
        pytest.skip("the published checkpoints are not in models/")
    digits = load_mnist(MNIST_ROOT, "mnist") if mnist_is_here() else load_mnist(source="sample")
    data = explore.explored(explore.PUBLISHED, digits)
    file = tmp_path_factory.mktemp("page") / "explore.html"
    file.write_bytes(page("explore", data))
    return SimpleNamespace(file=file, data=data, mnist=digits)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Digits]:
    """Every minibatch that any loader hands out during the test, in order."""
    seen: list[Digits] = []
    iterate = dataset.Loader.__iter__

    def iterate_and_record(loader: dataset.Loader) -> Iterator[Digits]:
        for batch in iterate(loader):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(dataset.Loader, "__iter__", iterate_and_record)
    return seen


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of results/ to change, which the tables are made from."""
    copy = tmp_path / "results"
    shutil.copytree(ROOT / "results", copy)
    monkeypatch.setattr("results.runs.RESULTS", copy)
    return copy
