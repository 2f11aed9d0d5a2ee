"""The page of explore.py in headless Chromium: what a visitor sees, draws and presses."""

import base64
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from common import random_net
from PIL import Image

import explore
from dataset import from_picture
from distillation_no_three import errors_at, margins, report_shifts, shift_rows
from evaluate import logits_of
from results.screenshot import THREE, browser, draw
from support.checkpoints import load_model, save_model
from support.errors import UserError
from support.page import page

MINUS = "\N{MINUS SIGN}"
SIZES = [(360, 640), (1280, 800)]
# A 9 whose loop is all but open, which makes it look like a 4.
NINE = [
    [(182, 74), (168, 64), (150, 60), (130, 64), (112, 76), (100, 92), (95, 110), (99, 128)],
    [(99, 128), (110, 142), (126, 149), (144, 148), (160, 138), (173, 120), (182, 100), (188, 70)],
    [(188, 66), (187, 90), (183, 120), (178, 150), (172, 180), (166, 210), (160, 238)],
]
DRAWINGS = {
    "a nine": NINE,
    "a three": THREE,
    "a dot": [[(50, 200)]],
    "a stroke as wide as the pen": [[(140, 30), (140, 250)]],
    "a bar": [[(20, 70), (260, 70)]],
    "over the edge": [[(-20, 100), (150, 300)], [(270, 10), (200, 20)]],
    "a small one in a corner": [[(240, 20), (265, 20), (245, 60)]],
}


@pytest.fixture(scope="session")
def chromium():
    try:
        with browser() as launched:
            yield launched
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def opened(chromium):
    """opened(file, ...): a tab with the page; nothing may go wrong or leave the machine in it."""
    tabs = []

    def open_page(file, size=SIZES[1], **options):
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        tab = context.new_page()
        tabs.append(tab)
        address, tab.problems = file.resolve().as_uri(), []
        tab.on("console", lambda message: tab.problems.append(message.text))
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.on("request", lambda r: r.url == address or tab.problems.append(r.url))
        tab.goto(address)
        tab.wait_for_selector("main:visible")
        return tab

    yield open_page
    for tab in tabs:
        tab.context.close()


@pytest.fixture(scope="session")
def shared(opened, explored):
    return opened(explored.file)


@pytest.fixture
def tab(shared):
    """The page of the published nets, as it is at first."""
    shared.problems.clear()  # of another test
    shared.locator("#temperature").fill("1")
    shared.locator(".learned button").first.click()
    shared.locator(".learned button").last.click()
    shared.locator("#plain button").first.click()
    yield shared
    assert not shared.problems


def cells(row):
    """The text of the cells of a row of a table, without the first."""
    return row.locator("td").all_inner_texts()[1:]


def numbers(tab, selector, expression):
    """Of every element with this selector, a number: what JavaScript makes of an element `e`."""
    script = f"(all) => all.map((e) => parseFloat({expression}))"
    return torch.tensor(tab.locator(selector).evaluate_all(script))


def levels_of(tab):
    """What the nets see: 784 levels."""
    return tab.evaluate("image && Array.from(image)")


def picture_of(tab, canvas):
    """Its grey levels, uint8 (height, width)."""
    address = tab.locator(canvas).evaluate("(canvas) => canvas.toDataURL()")
    file = io.BytesIO(base64.b64decode(address.partition(",")[2]))
    return np.asarray(Image.open(file).convert("L"))


def signed(shift):
    return f"{shift:+.2f}".replace("-", MINUS)


# The nets


def test_the_answers_to_200_test_images_are_those_of_pytorch(tab, explored):
    places = range(0, len(explored.mnist.test), len(explored.mnist.test) // 200)
    found = tab.evaluate(
        """(places) => nets.map((net) => places.map((place) =>
            Array.from(logits(net, test.images.subarray(784 * place, 784 * (place + 1))))))""",
        list(places),
    )
    images = explored.mnist.test.images[list(places)]
    for path, logits in zip(explore.PUBLISHED, torch.tensor(found), strict=True):
        expected = logits_of(load_model(path), images)
        assert torch.equal(logits.argmax(1), expected.argmax(1))
        assert (logits - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("temperature", [1, 4.5, 40])
def test_bars_are_the_softmax_at_the_temperature_of_the_slider(tab, explored, temperature):
    place = explored.data["picks"]["disputed"][0]
    tab.locator("#disputed button").first.click()
    tab.locator("#temperature").fill(str(temperature))
    assert tab.locator("#temperature + output").inner_text() == f"T = {temperature}"
    cards = tab.locator("#nets article").all()
    shares = []
    for path, card in zip(explore.PUBLISHED, cards, strict=True):
        logits = logits_of(load_model(path), explored.mnist.test.images[place : place + 1])[0]
        expected = (logits / temperature).softmax(0)
        shares.append(numbers(card, "i", "e.style.width") / 100)
        assert torch.allclose(shares[-1], expected, atol=0.02)
        texts = numbers(card, "li > :last-child", "e.textContent")
        assert torch.allclose(texts / 100, shares[-1], atol=0.006)
        assert card.locator(".answer").inner_text() == str(int(logits.argmax()))
        lines = numbers(card, "b", "e.style.left") / 100
        assert torch.allclose(lines, shares[0], atol=1e-4)  # those of the first net


# The drawing


@pytest.mark.parametrize("strokes", DRAWINGS.values(), ids=DRAWINGS)
def test_a_drawing_is_prepared_as_a_picture_is(tab, strokes):
    tab.locator("#clear").click()
    draw(tab, strokes)
    levels = picture_of(tab, "#board")
    assert levels.shape == (280, 280) and levels.max() == 255
    points = [np.linspace(a, b, 99) for s in strokes for a, b in pairwise([s[0], *s])]
    inked = np.argwhere(levels)[:, None, ::-1] + 0.5
    distances = np.hypot(*np.moveaxis(inked - np.concatenate(points), -1, 0)).min(1)
    assert 11 < distances.max() < 14  # the pen is 24 pixels wide, with round ends and corners
    shown = np.array(levels_of(tab)).reshape(28, 28)
    expected = from_picture(Image.fromarray(levels)).numpy().astype(int)
    assert shown.any() and abs(shown - expected).max() <= 2
    assert (picture_of(tab, "#seen") == shown).all()


@pytest.mark.parametrize(
    "box",
    [(40, 100, 240, 125), (100, 40, 135, 240), (1, 1, 279, 279), (50, 60, 57, 63), (9, 9, 11, 270)],
)
def test_ink_of_any_shape_is_prepared_as_a_picture_is(tab, box):
    """Among them two of which a side becomes 2.5 or 3.5 pixels."""
    left, top, right, bottom = box
    y, x = np.ogrid[:280, :280]
    levels = (x * x + 7 * y) % 255 + 1
    levels[top, left] = 255  # as wherever the pen has been
    levels *= (x >= left) & (x < right) & (y >= top) & (y < bottom)
    script = """([left, top, right, bottom]) => {
        const level = (x, y) => x === left && y === top ? 255 : (x * x + 7 * y) % 255 + 1;
        const row = (y) => Array.from({ length: 280 }, (_, x) =>
            x >= left && x < right && y >= top && y < bottom ? level(x, y) : 0);
        return Array.from(prepared(Array.from({ length: 280 }, (_, y) => row(y))));
    }"""
    shown = np.array(tab.evaluate(script, list(box))).reshape(28, 28)
    expected = from_picture(Image.fromarray(levels.astype(np.uint8))).numpy().astype(int)
    assert abs(shown - expected).max() <= 2


def test_a_drawn_nine_is_read_and_its_dark_knowledge_shown(tab):
    tab.locator("#clear").click()
    assert tab.locator("#answers").inner_text() == "The board is blank. Draw large."
    assert tab.locator(".answer").all_inner_texts() == ["\N{EN DASH}"] * 5
    draw(tab, NINE)
    assert tab.locator(".answer").first.inner_text() == "9"
    assert tab.locator("#answers").inner_text().startswith("Teacher: 9 · Distilled student: 9")
    fours = "#nets li:nth-child(5) i"
    at_1 = numbers(tab, fours, "e.style.width")[0]
    tab.locator("#temperature").fill("8")
    assert at_1 < 1 < 5 < numbers(tab, fours, "e.style.width")[0]  # per cent


def test_a_new_stroke_replaces_a_test_digit_but_not_a_drawing(tab):
    dot = [[(140, 140)]]
    draw(tab, dot)
    alone = (picture_of(tab, "#board") > 0).sum()
    assert 300 < alone < 700  # a dot of the pen, nothing of the test digit
    draw(tab, [[(60, 60)]])
    assert (picture_of(tab, "#board") > 0).sum() == 2 * alone


def test_a_finger_draws_too(opened, explored):
    tab = opened(explored.file, SIZES[0], has_touch=True, is_mobile=True)
    tab.locator("#clear").tap()
    tab.locator("#board").tap()
    assert tab.evaluate("image !== null")
    assert tab.evaluate("getComputedStyle(find('#board')).touchAction") == "none"
    assert not tab.problems


# The digit that a net never saw


def test_the_rows_are_those_of_the_table_of_the_script(tab, explored, capsys):
    panels = tab.locator("#panels article").all()
    for path, panel, unseen in zip(
        explore.PUBLISHED[3:], panels, [("omit", [3]), ("keep", [7, 8])], strict=True
    ):
        rows = shift_rows(None, explored.mnist, *unseen)
        few = explored.mnist._replace(training=explored.mnist.training[:100])  # they do not matter
        columns = report_shifts(load_model(path), few, unseen[1], rows)
        printed = capsys.readouterr().out
        for column in ("learned", "paper", "best"):
            shift, errors, on_group, _ = cells(panel.locator(f".{column}"))
            assert shift == signed(columns[f"{column}_shift"])
            assert errors == f"{columns[f'{column}_errors']:,}"
            assert on_group == f"{columns[f'{column}_on_group']:,}"
            assert all(word.replace(MINUS, "-") in printed for word in (shift, errors, on_group))
    paper = tab.locator("tr.paper td:last-child").first.inner_text()
    assert paper == ("109 (14)" if explored.mnist.name == "MNIST" else "")


@pytest.mark.parametrize("place", [0, 1])
def test_any_shift_has_the_errors_that_pytorch_counts(tab, explored, place):
    group, digits = [[3], [7, 8]][place], explored.mnist.test
    logits = logits_of(load_model(explore.PUBLISHED[3 + place]), digits.images)
    cases = margins(logits, digits.labels, group)
    panel = tab.locator("#panels article").nth(place)
    for shift in (-3.05, -0.05, 0.1, 2.4, 3.5, 6.95):
        panel.locator("input").fill(str(shift))
        shown = [signed(shift), *(f"{n:,}" for n in errors_at(cases, digits.labels, group, shift))]
        assert cells(panel.locator("tfoot tr"))[:3] == shown
        assert panel.locator("output").inner_text() == signed(shift)


def test_test_threes_turn_right_on_the_board_and_beside_the_slider(tab):
    panel = tab.locator("#panels article").first
    thumbs = panel.locator(".thumbs button")
    assert panel.locator(".turned").inner_text() == f"0 of {thumbs.count()}"
    three = panel.locator(".thumbs button[aria-label^='test digit 3']").first
    three.click()
    verdict = panel.locator(".verdict").inner_text()
    learned = tab.locator(".answer").nth(3).inner_text()
    assert learned != "3" and f"reads {learned} as learned, {learned} at this shift" in verdict
    panel.locator(".best button").click()
    assert f"reads {learned} as learned, 3 at this shift" in panel.locator(".verdict").inner_text()
    assert panel.locator(".turned").inner_text() == f"{thumbs.count()} of {thumbs.count()}"
    assert all(text == "✓" for text in thumbs.all_inner_texts())
    needed = float(verdict.split()[-1].rstrip(".").replace(MINUS, "-"))
    for shift, answer in ((needed - 0.1, learned), (needed + 0.1, "3")):
        panel.locator("input").fill(f"{round(20 * shift) / 20:.2f}")
        assert f"{answer} at this shift" in panel.locator(".verdict").inner_text()


def test_the_point_lies_on_the_curve_and_the_shifts_are_marked(tab):
    panel = tab.locator("#panels article").first
    slider = panel.locator("input")
    low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
    slider.fill(f"{(low + high) / 2:g}")  # one of the points of the curve
    point = panel.locator("path.now").get_attribute("d").removeprefix("M").removesuffix("h0")
    curve = panel.locator("path.total").get_attribute("d").removeprefix("M").split("L")
    assert len(curve) == 201 and point.replace(" ", ",") in curve
    for column in ("learned", "paper", "best"):
        assert panel.locator(f"path.{column}").bounding_box()["height"] > 50
    marks = panel.evaluate("(p) => [...find('input', p).list.options].map((o) => Number(o.value))")
    assert marks[:2] == [0, 3.5] and len(marks) == 3


# The errors


def test_all_errors_of_the_chosen_net_can_be_put_on_the_board(tab, explored):
    for place in (0, 4):
        tab.locator("#net").select_option(str(place))
        logits = logits_of(load_model(explore.PUBLISHED[place]), explored.mnist.test.images)
        wrong = (logits.argmax(1) != explored.mnist.test.labels).nonzero().flatten()
        assert f"{len(wrong):,} errors on {len(explored.mnist.test):,}" in tab.inner_text("#wrong")
        shown = tab.locator("#errors button")
        assert shown.count() == min(len(wrong), 120)
        if len(wrong):
            first, label = int(wrong[0]), int(explored.mnist.test.labels[wrong[0]])
            answer = int(logits.argmax(1)[first])
            assert shown.first.inner_text() == f"{label}→{answer}"
            shown.first.click()
            assert levels_of(tab) == explored.mnist.test.images[first].flatten().tolist()
            assert tab.locator(".answer").nth(place).inner_text() == str(answer)
    before = shown.count()
    tab.locator("#more").click()
    assert before < shown.count() <= len(wrong)


def test_the_picks_are_test_digits(tab, explored):
    for part, places in explored.data["picks"].items():
        buttons = tab.locator(f"#{part} button")
        assert buttons.count() == len(places)
        if places:
            buttons.last.click()
            levels = explored.mnist.test.images[places[-1]]
            assert levels_of(tab) == levels.flatten().tolist()
            assert (picture_of(tab, "#board")[5::10, 5::10] == levels.numpy()).all()


# For everybody


def test_the_sliders_work_with_the_keyboard(tab):
    tab.locator("#temperature").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#temperature + output").inner_text() == "T = 1.5"
    tab.keyboard.press("End")
    assert tab.locator("#temperature + output").inner_text() == "T = 40"
    slider = tab.locator("#panels input").first
    slider.focus()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#panels output").first.inner_text() == signed(-0.05)
    assert slider.get_attribute("aria-valuetext") == signed(-0.05)
    tab.locator("#clear").focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("image") is None
    tab.locator("#plain button").nth(4).focus()
    tab.keyboard.press("Space")
    assert tab.evaluate("image !== null")


def test_everything_that_can_be_used_has_a_name(tab):
    assert numbers(tab, "input, select", "e.labels.length").all()
    assert numbers(tab, "button", "(e.ariaLabel ?? e.innerText).length").all()
    assert tab.locator("[aria-live]").count() >= 4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_small_and_large_screens_in_light_and_dark(shared, size, scheme):
    shared.set_viewport_size({"width": size[0], "height": size[1]})
    shared.emulate_media(color_scheme=scheme)
    try:
        widths = "[document.documentElement.scrollWidth, innerWidth]"
        assert shared.evaluate(widths) == [size[0]] * 2
        assert numbers(shared, "main *", "e.getBoundingClientRect().right").max() <= size[0]
        shared.evaluate("scrollTo(0, 0)")
        box = shared.locator("#board").bounding_box()
        assert box["width"] == 280 and box["y"] + box["height"] < size[1]
        style = shared.evaluate_handle("getComputedStyle(document.body)")
        back, text = (
            sum(map(int, style.evaluate(f"(style) => style.{name}")[4:-1].split(",")))
            for name in ("backgroundColor", "color")
        )
        assert (back - text > 400, text - back > 400) == (scheme == "light", scheme == "dark")
    finally:
        shared.set_viewport_size({"width": SIZES[1][0], "height": SIZES[1][1]})
        shared.emulate_media(color_scheme="light")


def test_a_page_of_own_nets_with_odd_names_is_harmless(opened, sample, tmp_path):
    folder = tmp_path / "<"
    folder.mkdir()
    paths = [folder / "script><script>hacked = 1<.pt", tmp_path / "<img src=x onerror=hacked=1>.pt"]
    for path in paths:
        save_model(path, random_net(6))
    file = tmp_path / "page.html"
    file.write_bytes(page("explore", explore.explored(paths, sample)))
    tab = opened(file)
    assert tab.evaluate("typeof hacked") == "undefined"
    for path, card in zip(paths, tab.locator("#nets article").all(), strict=True):
        assert str(path) in card.inner_text()
    assert not tab.locator("#unseen").is_visible()
    assert "1,000 digits of the sample, which published nets have seen" in tab.inner_text("#test")
    assert not tab.problems
