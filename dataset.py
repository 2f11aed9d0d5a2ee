"""MNIST as tensors: loading, a bundled sample, translation jitter, digit filter, minibatches."""

import math
import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from support.errors import UserError
from support.files import check_regular, sha256
from support.hyperparameters import COUNT, PIXELS
from support.mnist_files import SHA256, FilesMissing, read_mnist
from support.seeds import as_seeds

HERE = Path(__file__).parent
SAMPLE = HERE / "data" / "sample-5000.npz"
SAMPLE_SHA256 = "ec56671eedea578fe38198d455616f721540adb79079f21462763a80602814a0"
TRAINING_CASES = {"MNIST": 60_000, "sample": 4_000}
CHUNK = 50  # minibatches gathered at once
SPECK = 0.1  # of the ink of an average row or column of a picture: less is none


@dataclass(frozen=True)
class Digits:
    """N images, as a rule with labels, and with a teacher's logits where they are a transfer set.

    The fields stay aligned: whatever selects or reorders cases does so in all of them.
    """

    images: Tensor  # uint8 (N, 28, 28); in a minibatch float32 (N, 784) in [0, 1]
    labels: Tensor | None  # int64 (N,)
    indices: Tensor  # int64 (N,): position in its file: tells an image after shuffling
    teacher_logits: Tensor | None = None  # float32 (N, 10)

    def __getitem__(self, cases: Tensor | slice) -> "Digits":
        """The chosen cases: an int64 or bool tensor, or a slice."""
        return self._each(lambda field: field[cases])

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def device(self) -> torch.device:
        return self.indices.device

    def to(self, device: torch.device | str) -> "Digits":
        return self._each(lambda field: field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Digits":
        return Digits(*(None if f is None else change(f) for f in vars(self).values()))


class Mnist(NamedTuple):
    """A training set and the set on which errors are counted."""

    training: Digits
    test: Digits
    source: str  # "MNIST" or "sample"
    held_out: bool = False  # whether `test` are training images that are held out to choose by

    @property
    def name(self) -> str:
        """As checkpoints and results record it."""
        return f"{self.source} validation" if self.held_out else self.source


def as_digits(images: Tensor, labels: Tensor | None = None) -> Digits:
    """Digits from uint8 images (N, 28, 28) and integer labels 0-9 (N,) of any source.

    Without labels they are a transfer set: "entirely of unlabeled data", as [KD] s.1 has it. Raises
    UserError for tensors of another kind or shape, and for other labels.
    """
    tensors = [images] if labels is None else [images, labels]
    if not all(isinstance(each, Tensor) and each.dim() for each in tensors):
        raise UserError(
            "images (N, 28, 28) and labels (N,) must be tensors: torch.from_numpy makes them"
        )
    wanted = (len(tensors[-1]), 28, 28)
    if (
        images.dtype != torch.uint8
        or images.shape != wanted
        or images.is_meta
        or images.layout is not torch.strided
        or tensors[-1].dim() != (3 if labels is None else 1)
    ):
        kind = f"{str(images.dtype)[6:]} {tuple(images.shape)}"
        beside = "" if labels is None else f" for {wanted[0]} labels (N,)"
        raise UserError(f"images must be uint8 {wanted}{beside}, not {kind}")
    indices = torch.arange(len(images), device=images.device)
    warn_if_inverted(images)
    if labels is None:
        return Digits(images, None, indices)
    try:
        whole, given = labels.long(), labels.cpu().double()  # Apple's GPUs have no float64
        fit = ((given >= 0) & (given <= 9) & (given == given.trunc())).all()
    except (RuntimeError, NotImplementedError):  # as of sparse tensors
        fit = False
    if labels.is_complex() or not fit:
        raise UserError("labels must be whole numbers from 0 to 9")
    return Digits(images, whole, indices)


def warn_if_inverted(images: Tensor) -> None:
    """Warn of images (N, 28, 28), uint8 or floats up to 1, whose border is light."""
    light = 191 if images.dtype == torch.uint8 else 0.75
    edges = images[:, ::27], images[:, :, ::27]  # first and last rows, first and last columns
    if sum(edge.mean(dtype=torch.float32) for edge in edges) / 2 > light:
        warnings.warn(
            "these images look inverted: MNIST's digits are white on black, their border is 0",
            stacklevel=3,
        )


def check_digits(digits: Any) -> None:
    """Raise UserError for a data set of another class."""
    if not isinstance(digits, Digits):
        raise UserError(
            f"a {type(digits).__name__} is not a set of Digits: make one with `as_digits`, or take "
            "`load_mnist().training`"
        )


def labels_of(digits: Digits) -> Tensor:
    """int64 (N,), in minibatches of several orders (G, B). Raises UserError if there are none."""
    check_digits(digits)
    if digits.labels is None:
        raise UserError(
            "these images have no labels, without which nothing can be counted or learned"
        )
    return digits.labels


def pixels(images: Tensor) -> Tensor:
    """Images (..., 28, 28) as the nets take them: float32 (..., 784) in [0, 1].

    Raises UserError unless they are uint8, or floats from 0 to 1, as torchvision's ToTensor gives.
    """
    if images.dtype == torch.uint8:
        # The divisor gives the dtype, whatever the default dtype of the user is.
        return images.flatten(-2).div(torch.tensor(255, dtype=torch.float32, device="cpu"))
    if not images.is_floating_point() or not ((images >= 0) & (images <= 1)).all():
        raise UserError(
            f"images must be uint8, or floats from 0 to 1, not {str(images.dtype)[6:]} from "
            f"{float(images.min()):.3g} to {float(images.max()):.3g}: undo a normalisation"
        )
    return images.flatten(-2).float()


def from_picture(picture: str | Path | Image.Image) -> Tensor:
    """A picture of a single digit, of any size, as MNIST would hold it: uint8 (28, 28).

    White on black (inverted if its border is light), scaled to fit into 20 x 20 pixels, and moved
    by whole pixels until its centre of mass is in the middle, as MNIST was made of NIST's digits.
    `picture` is a file or an image of Pillow. Raises UserError if it cannot be read, or if nothing
    in it differs from its border.
    """
    ink = _ink(_grey_levels(picture))
    rows, columns = ((s > SPECK * s.mean()).nonzero()[0] for s in (ink.sum(1), ink.sum(0)))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    digit = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    starts = []  # of its rows and columns in the field
    for axis, length in enumerate(digit.shape):
        centre = digit.sum(1 - axis) @ np.arange(length) / digit.sum()
        starts.append(min(max(math.floor(14.5 - centre), 0), 28 - length))
    field = np.zeros((28, 28), np.uint8)
    field[starts[0] :, starts[1] :][:height, :width] = (digit * (255 / digit.max())).round()
    return torch.from_numpy(field)


def _grey_levels(picture: str | Path | Image.Image) -> np.ndarray:
    """float32 (height, width), upright. Raises UserError if there are none."""
    is_file = isinstance(picture, str | Path)
    if is_file:
        check_regular(picture)
    elif not isinstance(picture, Image.Image):
        kind = type(picture).__name__
        raise UserError(f"a picture is a file or an image of Pillow, not a {kind}")
    try:
        image = ImageOps.exif_transpose(Image.open(picture) if is_file else picture)
        if image.mode[0] not in "IF":  # those have more than 8 bits
            paper = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(paper, image.convert("RGBA")).convert("L")
        levels = np.asarray(image, np.float32)
    except MemoryError:
        raise
    except Exception as error:  # each format has its own
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnidentifiedImageError):
            reason = "it is not a picture"
        raise UserError(f"cannot read {picture}: {reason}") from None
    if not np.isfinite(levels).all():
        raise UserError(f"cannot use {picture}: it holds values that are not finite")
    return levels


def _ink(levels: np.ndarray) -> np.ndarray:
    """0 where a picture is like its border, which is paper, and more where it is not.

    Raises UserError if it is so nowhere.
    """
    border = np.concatenate([levels[:1].ravel(), levels[-1:].ravel(), levels[:, 0], levels[:, -1]])
    if levels.size and 2 * np.median(border) > levels.min() + levels.max():
        levels, border = -levels, -border
    # Paper is uneven. Ink in the border is above its median: below it is nothing but paper.
    low, middle = np.quantile(border, [0.05, 0.5]) if levels.size else (0, 0)
    ink = np.maximum(levels - middle - 2 * (middle - low), 0)
    if not ink.any():
        raise UserError("there is no digit in the picture: nothing differs from its border")
    return ink.astype(np.float32)


def load_mnist(data_dir: str | Path | None = None, source: str = "auto") -> Mnist:
    """MNIST from `data_dir` (else $MNIST_DIR, else data/), downloaded where it is missing.

    The folder is one with the four files, gzipped or not, or with MNIST/raw. `source` is "mnist",
    "sample" (5,000 bundled training digits: 4,000 to train, 1,000 to test) or "auto": MNIST or, if
    it cannot be had and no folder was named, the sample. Raises UserError for a file that is not
    the canonical one, or when MNIST cannot be had.
    """
    if source not in ("mnist", "sample", "auto"):
        raise UserError(f"the source of data is {source!r}; it must be mnist, sample or auto")
    if source == "sample":
        return _load_sample()
    named = data_dir or os.environ.get("MNIST_DIR")
    try:
        files = read_mnist(Path(os.path.expanduser(named or HERE / "data")))
    except FilesMissing as error:
        if named or source == "mnist":
            raise
        print(f"the bundled sample is used in place of MNIST: {error}", file=sys.stderr)
        return _load_sample()
    train_images, train_labels, test_images, test_labels = map(files.get, SHA256)
    training, test = _digits(train_images, train_labels), _digits(test_images, test_labels)
    return Mnist(training, test, source="MNIST")


def _digits(images: bytes, labels: bytes) -> Digits:
    """Digits from the contents of two files of MNIST, whose headers have 16 and 8 bytes."""
    return as_digits(
        torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16).view(-1, 28, 28),
        torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8),
    )


def _load_sample() -> Mnist:
    """4,000 digits to train and 1,000 to test, the ten classes in turn."""
    if sha256(SAMPLE) != SAMPLE_SHA256:
        raise UserError(f"{SAMPLE} is corrupt: restore it from the repository")
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    digits = as_digits(images, labels)
    cases = TRAINING_CASES["sample"]
    return Mnist(digits[:cases], digits[cases:], source="sample")


def hold_out(mnist: Mnist) -> Mnist:
    """Hold out the last 10,000 training images to choose by; the test set is not touched.

    Of the sample, a fifth. Raises UserError if nothing would be left to train on.
    """
    cases = min(10_000, len(mnist.training) // 5)
    if cases == 0:
        raise UserError(f"a training set of {len(mnist.training)} images is too small to split")
    training, held_out = mnist.training[:-cases], mnist.training[-cases:]
    return Mnist(training, held_out, mnist.source, held_out=True)


def filter_by_class(
    digits: Digits, keep: Sequence[int] | None = None, omit: Sequence[int] | None = None
) -> Digits:
    """The images whose digit is in `keep`, or is not in `omit`; exactly one of them is given.

    Raises UserError for both, neither, something that is not a digit, or if no case is left.
    """
    if (keep is None) == (omit is None):
        raise UserError("filter_by_class: give either the digits to keep or those to omit")
    named = keep if omit is None else omit
    try:
        listed = sorted({operator.index(digit) for digit in named})
    except TypeError:
        listed = []
    if not listed or not {*listed} <= {*range(10)}:
        raise UserError(f"digits to keep or omit must be some of 0 to 9, not {named!r}")
    mask = torch.isin(labels_of(digits), torch.tensor(listed, device=digits.device))
    chosen = digits[mask if omit is None else ~mask]
    if len(chosen) == 0:
        raise UserError(f"no image is left after keeping {keep} / omitting {omit}")
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
        beside_images = {name: field for name, field in vars(digits).items() if name != "images"}
        self.fields = {name: field for name, field in beside_images.items() if field is not None}
        if jitter:
            # A view of all translations of all images, so that a jittered batch is a single gather:
            # windows[n, y, x] is image n moved by (jitter - y, jitter - x), zeros moving in.
            padded = F.pad(digits.images, (jitter,) * 4)
            self.windows = padded.unfold(1, 28, 1).unfold(2, 28, 1)

    def __len__(self) -> int:
        return math.ceil(len(self.digits) / self.batch_size)

    def __iter__(self) -> Iterator[Digits]:
        draws = torch.stack([self._draw(generator) for generator in self.generators], dim=1)
        draws = (draws if self.stacked else draws[:, 0]).to(self.digits.device)
        axis = draws.dim() - 2  # of the cases: behind the one of the generators
        # Gathered for many minibatches at once: it costs less and uses all threads.
        for cases, y, x in draws.split(CHUNK * self.batch_size, dim=-1):
            rest = [field[cases] for field in self.fields.values()]
            chunk = [self._gather(cases, y, x), *rest]
            for images, *others in zip(
                *(f.split(self.batch_size, axis) for f in chunk), strict=True
            ):
                beside_images = {"labels": None} | dict(zip(self.fields, others, strict=True))
                yield Digits(pixels(images), **beside_images)

    def _gather(self, cases: Tensor, y: Tensor, x: Tensor) -> Tensor:
        if self.jitter:
            return self.windows[cases, y, x]
        # Images as a whole, which takes a fifteenth of the time of pixels one by one.
        images = self.digits.images.flatten(1).index_select(0, cases.flatten())
        return images.view(*cases.shape, 28, 28)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Order of the cases and where each lies in its windows: int64 (3, N)."""
        cpu = {"generator": generator, "device": "cpu"}
        order = torch.randperm(len(self.digits), **cpu)
        shifts = torch.randint(2 * self.jitter + 1, (2, len(order)), **cpu)
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
    """Minibatches of `digits`, shuffled by a generator of their own; `jitter` is in pixels.

    Several seeds give batches with a leading axis, one order for each. Raises UserError.
    """
    batch_size = COUNT.check(batch_size, "batch_size: ")
    jitter = PIXELS.check(jitter, "jitter: ")
    if batch_size > len(digits):
        raise UserError(f"a batch of {batch_size} is larger than the data set ({len(digits)})")
    seeds, stacked = as_seeds(seed)
    generators = [torch.Generator("cpu").manual_seed(one) for one in seeds]
    return Loader(digits, batch_size, generators, jitter, stacked)
