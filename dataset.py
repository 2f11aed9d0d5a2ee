"""MNIST as tensors: loading, a bundled sample, translation jitter, digit filter, minibatches."""

import hashlib
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training_params import UserError

# The uncompressed files that torchvision reads. It checks what it downloads, not what it finds.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SAMPLE = Path(__file__).parent / "data" / "sample-5000.npz"
SAMPLE_SHA256 = "ec56671eedea578fe38198d455616f721540adb79079f21462763a80602814a0"
MAX_BYTES = 2**26  # more than any file of MNIST has
CHUNK = 50  # minibatches gathered at once
DOWNLOAD_SECONDS = 20  # without a word from the network for this long, there is none


@dataclass(frozen=True)
class Digits:
    """N labelled images, and the logits of a teacher where they are a transfer set.

    The fields stay aligned: whatever selects or reorders cases does so in all of them.
    """

    images: Tensor  # uint8 (N, 28, 28); in a minibatch float32 (N, 784) in [0, 1]
    labels: Tensor  # int64 (N,)
    indices: Tensor  # int64 (N,): the place of each case in its file, to tell it by anywhere
    teacher_logits: Tensor | None = None  # float32 (N, 10)

    def __getitem__(self, cases: Tensor | slice) -> "Digits":
        """The chosen cases: an int64 or bool tensor, or a slice."""
        return self._each(lambda field: field[cases])

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Digits":
        return self._each(lambda field: field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Digits":
        return Digits(*(None if f is None else change(f) for f in vars(self).values()))


class Mnist(NamedTuple):
    """A training set, what the errors are counted on, and their name as checkpoints record it."""

    training: Digits
    test: Digits
    name: str  # "MNIST", "MNIST validation" or "sample"


def as_digits(images: Tensor, labels: Tensor) -> Digits:
    """Digits from uint8 images (N, 28, 28) and integer labels 0-9 (N,) of any source.

    Raises UserError for tensors of another kind or shape, and for other labels.
    """
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor) or labels.dim() != 1:
        raise UserError("images (N, 28, 28) and labels (N,) must be tensors")
    if images.dtype != torch.uint8 or images.shape != (len(labels), 28, 28):
        kind = f"{str(images.dtype)[6:]} {tuple(images.shape)}"
        raise UserError(f"images must be uint8 ({len(labels)}, 28, 28), as labels are, not {kind}")
    if ((labels < 0) | (labels > 9) | (labels != labels.long())).any():
        raise UserError("labels must be whole numbers from 0 to 9")
    return Digits(images, labels.long(), torch.arange(len(labels), device=labels.device))


def pixels(images: Tensor) -> Tensor:
    """uint8 images (..., 28, 28) as the nets take them: float32 (..., 784) in [0, 1]."""
    return images.flatten(-2).div(255)


def load_mnist(data_dir: str | Path | None = None, source: str = "auto") -> Mnist:
    """MNIST from `data_dir` (else $MNIST_DIR, else data/), downloaded where it is missing.

    `source` is "mnist", "sample" (5,000 bundled training digits: 4,000 to train, 1,000 to test)
    or "auto": MNIST, and the sample where there is no network either. Raises UserError for a file
    that is not the canonical one, or when MNIST was asked for and cannot be had.
    """
    if source not in ("mnist", "sample", "auto"):
        raise UserError(f"there is no source {source!r} of data: mnist, sample or auto")
    if source == "sample":
        return _load_sample()
    root = Path(data_dir or os.environ.get("MNIST_DIR") or Path(__file__).parent / "data")
    problem = _fetch(root)
    if problem:
        problem = f"MNIST is not in {root / 'MNIST' / 'raw'} and could not be downloaded: {problem}"
        if source == "mnist":
            raise UserError(problem)
        print(problem, file=sys.stderr)
        return _load_sample()
    from torchvision.datasets.mnist import read_image_file, read_label_file

    # Not the class MNIST: it prefers what old versions of torchvision left in MNIST/processed.
    files = [str(root / "MNIST" / "raw" / name) for name in SHA256]
    training = as_digits(read_image_file(files[0]), read_label_file(files[1]))
    test = as_digits(read_image_file(files[2]), read_label_file(files[3]))
    return Mnist(training, test, name="MNIST")


def hold_out(mnist: Mnist, cases: int = 10_000) -> Mnist:
    """Hold out the last `cases` of the training set to choose by; the test set is not touched.

    Of the sample, a fifth. Raises UserError if nothing would be left to train on.
    """
    cases = min(cases, len(mnist.training) // 5)
    if cases == 0:
        raise UserError(f"a training set of {len(mnist.training)} cases is too small to split")
    training, held_out = mnist.training[:-cases], mnist.training[-cases:]
    return Mnist(training, held_out, f"{mnist.name} validation")


def filter_by_class(
    digits: Digits, keep: Sequence[int] | None = None, omit: Sequence[int] | None = None
) -> Digits:
    """The cases whose digit is in `keep`, or is not in `omit`; exactly one of them is given.

    Raises UserError for both, neither, something that is no digit, or if no case is left.
    """
    if (keep is None) == (omit is None):
        raise UserError("filter_by_class: give either the digits to keep or those to omit")
    named = list(keep if omit is None else omit)
    if not named or any(digit not in range(10) for digit in named):
        raise UserError(f"digits to keep or omit must be from 0 to 9, not {named}")
    mask = torch.isin(digits.labels, torch.tensor(named, device=digits.labels.device))
    chosen = digits[mask if omit is None else ~mask]
    if len(chosen) == 0:
        raise UserError(f"no case is left after keeping {keep} / omitting {omit}")
    return chosen


class Loader:
    """Minibatches, each a `Digits` with jittered float32 (B, 784) pixels in place of its images.

    Every pass draws a new order, and a translation for each image, from a generator on the CPU: the
    same on any device, with any number of threads. The last batch may be smaller; no case is
    dropped. With several generators each batch has a leading axis, an order of its own for each.
    """

    def __init__(
        self,
        digits: Digits,
        batch_size: int,
        generators: list[torch.Generator],
        jitter: int,
        stacked: bool,
    ):
        self.digits, self.batch_size, self.jitter = digits, batch_size, jitter
        self.generators, self.stacked = generators, stacked
        beside_images = (digits.labels, digits.indices, digits.teacher_logits)
        self.fields = [field for field in beside_images if field is not None]
        if jitter:
            # A view of all translations of all images, so that a jittered batch is a single gather:
            # windows[n, y, x] is image n moved by (jitter - y, jitter - x), zeros moving in.
            padded = F.pad(digits.images, (jitter,) * 4)
            self.windows = padded.unfold(1, 28, 1).unfold(2, 28, 1)

    def __len__(self) -> int:
        return math.ceil(len(self.digits) / self.batch_size)

    def __iter__(self) -> Iterator[Digits]:
        draws = torch.stack([self._draw(generator) for generator in self.generators], dim=1)
        draws = (draws if self.stacked else draws[:, 0]).to(self.digits.labels.device)
        axis = draws.dim() - 2  # of the cases: behind the one of the generators
        # Gathered for many minibatches at once: it costs less and uses all threads.
        for cases, y, x in draws.split(CHUNK * self.batch_size, dim=-1):
            rest = [field[cases] for field in self.fields]
            chunk = [self._gather(cases, y, x), *rest]
            for images, *others in zip(
                *(f.split(self.batch_size, axis) for f in chunk), strict=True
            ):
                yield Digits(pixels(images), *others)

    def _gather(self, cases: Tensor, y: Tensor, x: Tensor) -> Tensor:
        if self.jitter:
            return self.windows[cases, y, x]
        # Images as a whole, which takes a fifteenth of the time of pixels one by one.
        images = self.digits.images.flatten(1).index_select(0, cases.flatten())
        return images.view(*cases.shape, 28, 28)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Order of the cases and where each lies in its windows: int64 (3, N)."""
        order = torch.randperm(len(self.digits), generator=generator)
        shifts = torch.randint(2 * self.jitter + 1, (2, len(order)), generator=generator)
        return torch.cat((order[None], shifts))


def translate(images: Tensor, down: int, right: int) -> Tensor:
    """Images (N, 28, 28) moved by whole pixels, up and left if negative; zeros move in."""
    height, width = images.shape[-2:]
    room = max(abs(down), abs(right))
    padded = F.pad(images, (room,) * 4)
    return padded[..., room - down :, room - right :][..., :height, :width]


def get_dataloader(
    digits: Digits, batch_size: int, seed: int | Sequence[int] = 0, jitter: int = 0
) -> Loader:
    """Minibatches of `digits` in an order of their own seeded generator; jitter in pixels.

    Several seeds give batches with a leading axis, one order for each. Raises UserError if a batch
    is larger than the data set.
    """
    if batch_size > len(digits):
        raise UserError(f"a batch of {batch_size} is larger than the data set ({len(digits)})")
    stacked = not isinstance(seed, int)
    generators = [torch.Generator().manual_seed(s) for s in (seed if stacked else [seed])]
    return Loader(digits, batch_size, generators, jitter, stacked)


def _load_sample() -> Mnist:
    """4,000 digits to train and 1,000 to test, the ten classes in turn."""
    _check_sha256(SAMPLE, SAMPLE_SHA256, "restore it from the repository")
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    digits = as_digits(images, labels)
    return Mnist(digits[:4000], digits[4000:], name="sample")


def _fetch(root: Path) -> str | None:
    """Have the four canonical files in root/MNIST/raw; else say why they could not be had."""
    raw, old = root / "MNIST" / "raw", root / "MNIST" / "processed"
    problem = None
    if not all(os.path.isfile(raw / name) for name in SHA256):
        if os.path.exists(old):  # torchvision would take it for the data
            raise UserError(f"{old} is of an old version of torchvision: delete it and run again")
        problem = _download(root)
    for name, digest in SHA256.items():
        if os.path.exists(raw / name):
            _check_sha256(raw / name, digest, "delete it and run again, to have it anew")
    return problem


def _download(root: Path) -> str | None:
    """Let torchvision unpack or download MNIST; the reason, in a line, if it could not."""
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        return f"torchvision cannot be imported ({error})"
    for name, _ in MNIST.resources:
        _check_size(root / "MNIST" / "raw" / name)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        MNIST(str(root), download=True)
    except PermissionError as error:
        raise UserError(f"cannot write to {error.filename}: {error.strerror}") from None
    except (OSError, EOFError, RuntimeError, ValueError, HTTPException) as error:
        _check_archives(root / "MNIST" / "raw")
        return " ".join(str(error).split())
    finally:
        socket.setdefaulttimeout(timeout)
    return None


def _check_archives(raw: Path) -> None:
    """Name a compressed file that is present but corrupt, as the cause of a failed download."""
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_integrity

    for name, md5 in MNIST.resources:
        if (raw / name).exists() and not check_integrity(raw / name, md5):
            raise UserError(f"{raw / name} is corrupt: delete it and run again, to have it anew")


def _check_size(path: Path) -> None:
    if os.path.exists(path) and path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is corrupt (too large): delete it and run again, to have it anew")


def _check_sha256(path: Path, digest: str, remedy: str) -> None:
    if not path.is_file():  # a pipe, say, would never end
        raise UserError(f"{path} is no regular file: {remedy}")
    _check_size(path)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if found != digest:
        raise UserError(f"{path} is corrupt (its SHA-256 is not that of MNIST): {remedy}")
