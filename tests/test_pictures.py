"""A picture of one's own becomes what MNIST would hold, and the nets say what they see in it."""

import json

import numpy as np
import pytest
import torch
from common import ROOT, everything_in, random_net
from PIL import Image, ImageDraw

import evaluate
from dataset import from_picture
from evaluate import logits_of
from support.checkpoints import load_model, save_model
from support.errors import UserError


def picture(kind: str, ink: int = 0, paper: int = 255, size: tuple[int, int] = (300, 200)):
    """A stroke from the top left down to the right: no digit, but it is not symmetric."""
    image = Image.new(kind, size, paper if kind == "L" else (paper,) * len(kind))
    colour = ink if kind == "L" else (ink,) * 3 + (255,) * (len(kind) - 3)
    ImageDraw.Draw(image).line([(50, 30), (90, 30), (90, 150)], fill=colour, width=14)
    return image


def test_images_of_mnist_come_back_much_as_they_are(mnist):
    """Nets make as many errors on them; most are where they were."""
    images, labels = mnist.test.images[:2000], mnist.test.labels[:2000]
    again = torch.stack([from_picture(Image.fromarray(image.numpy())) for image in images])
    assert again.dtype == torch.uint8 and again.shape == images.shape
    assert ((again.int() - images.int()).abs().amax((1, 2)) <= 2).float().mean() > 0.6
    for name in ("cumbersome_model_1200", "distilled_model_800_20"):
        net = load_model(ROOT / "models" / f"{name}.pt")
        before, after = ((logits_of(net, x).argmax(1) != labels).sum() for x in (images, again))
        assert abs(int(after - before)) <= 1


def test_a_stroke_fills_20_pixels_and_its_centre_of_mass_is_in_the_middle():
    found = from_picture(picture("L")).double()
    rows, columns = found.sum(1), found.sum(0)
    assert max(int((rows > 0).sum()), int((columns > 0).sum())) == 20
    for sums in (rows, columns):
        # MNIST's own images have it at 14, counted from the first pixel as 0, but for rounding.
        assert abs(float(sums @ torch.arange(28.0, dtype=torch.double) / sums.sum()) - 14) <= 0.5
    assert found.max() == 255


def test_averages_of_areas_are_those_of_numpy():
    """Reduced by a factor of 4, by the triangle that is 8 pixels wide; the lightest becomes 255."""
    generator = np.random.default_rng(0)
    ink = generator.integers(1, 256, (80, 80)).astype(np.float32)
    ink[:2, :2] = 255
    padded = np.pad(ink, 10)
    weights = np.zeros((20, 80))
    for place in range(20):
        distance = np.abs(np.arange(80) + 0.5 - (4 * place + 2)) / 4
        weights[place] = np.maximum(1 - distance, 0)
    weights /= weights.sum(1, keepdims=True)
    found = from_picture(Image.fromarray(padded.astype(np.uint8))).numpy()
    expected = weights @ ink @ weights.T
    expected *= 255 / expected.max()
    rows, columns = (found.any(axis).nonzero()[0] for axis in (1, 0))
    digit = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert digit.shape == (20, 20) and np.abs(digit - expected).max() <= 1


@pytest.mark.parametrize(
    "same",
    [
        picture("L", 255, 0),
        picture("L", 100, 140),
        picture("RGB"),
        picture("RGBA"),
        picture("L").convert("1"),
        picture("L").convert("P"),
        Image.fromarray(np.asarray(picture("L"), np.int32) * 200 + 1000),
        Image.fromarray(np.asarray(picture("L"), np.float32) / 255),
        picture("L").crop((20, 10, 180, 190)),
        picture("L").resize((600, 400), Image.Resampling.NEAREST),
    ],
    ids=["white on black", "grey", "RGB", "RGBA", "1 bit", "palette", "I", "F", "cut", "larger"],
)
def test_format_contrast_colour_and_margins_do_not_matter(same):
    found, expected = from_picture(same).int(), from_picture(picture("L")).int()
    assert (found - expected).abs().max() <= 2


def test_ink_on_a_transparent_ground_is_ink_on_paper():
    image = picture("L")
    clear = Image.new("RGBA", image.size, (0, 0, 0, 0))
    clear.putalpha(image.point(lambda level: 255 - level))
    assert torch.equal(from_picture(clear), from_picture(image))


def noisy(levels, deviation):
    return levels + np.random.default_rng(0).normal(0, deviation, levels.shape)


def with_speck(levels, depth):
    levels = levels.copy()
    levels[5, 5] -= depth
    return levels


@pytest.mark.parametrize(
    "spoil",
    [
        *(lambda levels, d=d: noisy(levels, d) for d in (1, 3, 10)),
        lambda levels: noisy(levels, 3) + np.linspace(0, 20, levels.shape[1]),
        lambda levels: noisy(np.pad(levels, 300, constant_values=200), 3),
        *(lambda levels, d=d: with_speck(levels, d) for d in (1, 60)),
    ],
    ids=["noise 1", "noise 3", "noise 10", "slope", "margin", "faint speck", "speck"],
)
def test_uneven_paper_and_specks_are_background(spoil):
    levels = np.asarray(picture("L", 40, 200), np.float64)
    photo = Image.fromarray(spoil(levels).clip(0, 255).astype(np.uint8))
    difference = from_picture(photo).double() - from_picture(picture("L")).double()
    assert difference.abs().mean() < 6


def test_ink_may_touch_the_border():
    tight = picture("L").crop((44, 22, 98, 152))  # of which 5 % of the border is ink
    difference = from_picture(tight).double() - from_picture(picture("L")).double()
    assert difference.abs().mean() < 6


def test_thin_lines_are_as_light_as_others():
    image = Image.new("L", (1100, 1100), 255)
    ImageDraw.Draw(image).line([(300, 200), (800, 900)], fill=0, width=3)
    assert from_picture(image).max() == 255


def test_a_photo_that_lies_on_its_side_is_turned(tmp_path):
    upright = picture("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(from_picture(tmp_path / "a.png"), from_picture(upright))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"no picture", "not a picture"),
        (None, "No such file"),
        (b"", "not a picture"),
        ("cut", "cannot read"),
        ("empty", "no digit"),
        ("NaN", "not finite"),
    ],
)
def test_what_is_no_picture_of_a_digit_is_refused(refused, tmp_path, content, named):
    path = tmp_path / "here" / "a.png"
    if content == "empty":
        Image.new("L", (30, 30), 200).save(path)
    elif content == "NaN":
        Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(path, format="TIFF")
    elif content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=named):
        from_picture(path)
    refused(evaluate, "--image", path, naming=named)


@pytest.mark.parametrize("given", [np.zeros((28, 28)), torch.zeros(28, 28), None, b"a"])
def test_what_is_neither_a_file_nor_an_image_is_refused(given):
    with pytest.raises(UserError, match="a file or an image of Pillow"):
        from_picture(given)


def test_a_net_without_finite_logits_has_no_answer(refused):
    picture("L").save("a.png")
    net = random_net()
    for weights in net.parameters():
        weights.data.fill_(3e38)
    save_model("huge.pt", net)
    refused(evaluate, "--image a.png huge.pt", naming="huge.pt finite")


def test_each_net_says_what_it_takes_a_picture_for(stops, tmp_path):
    picture("L").save("stroke.png")
    prepared = from_picture("stroke.png")
    nets = {f"{seed}.pt": random_net(std=0.5, seed=seed) for seed in range(3)}
    for path, net in nets.items():
        save_model(path, net)
    before = everything_in(tmp_path)
    shown = stops(evaluate, "--image stroke.png", *nets)
    assert (shown.status, shown.err) == (0, "")
    rows = json.loads(stops(evaluate, "--json --image stroke.png", *nets).out)
    assert everything_in(tmp_path) == before
    for (path, net), row, line in zip(nets.items(), rows, shown.out.splitlines()[-3:], strict=True):
        (probabilities,) = torch.softmax(logits_of(net, prepared[None]).double(), -1)
        assert row["file"] == path and row["answer"] == int(probabilities.argmax())
        assert np.allclose(row["probabilities"], probabilities, atol=1e-5)
        words = line.split()
        assert words[:2] == [path, str(row["answer"])]
        assert np.allclose([*map(float, words[2:])], probabilities, atol=6e-4)
    drawn = shown.out.splitlines()[:14]
    for row, line in zip(prepared.view(14, 2, 28).double().mean(1), drawn, strict=True):
        assert [*(row > 51)] == [c != " " for c in line.ljust(28)]  # the lightest character of 5
