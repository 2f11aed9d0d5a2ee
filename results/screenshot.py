"""Draw a digit on the page of explore.py, in headless Chromium, and take figures/explore.png."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataset import load_mnist
from explore import PUBLISHED, explored
from results.figures import FIGURES
from support.command_line import Parser, data_flags
from support.errors import UserError
from support.files import replace_file
from support.page import page
from support.script import run_script

Stroke = Sequence[tuple[float, float]]  # points on the board, which is 280 pixels wide

# A 3, for the nets that never saw one.
THREE: list[Stroke] = [
    [(92, 80), (110, 64), (136, 58), (162, 64), (176, 82), (172, 104), (154, 120), (128, 130)],
    [(128, 130), (158, 136), (180, 154), (184, 182), (170, 206), (142, 218), (112, 216), (88, 202)],
]
TEMPERATURE = 8
SIZE = {"width": 1280, "height": 660}


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright. Raises UserError if one of them is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("the page is shown by Playwright: pip install playwright") from None
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise UserError("the page is shown in Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Root, as whom containers run, has no sandbox.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield launched
        finally:
            launched.close()


def draw(tab: Any, strokes: Sequence[Stroke]) -> None:
    """Draw with the mouse on the board of the page in `tab`."""
    board = tab.locator("#board")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    for stroke in strokes:
        points = [(box["x"] + x, box["y"] + y) for x, y in stroke]
        tab.mouse.move(*points[0])
        tab.mouse.down()
        for point in points[1:]:
            tab.mouse.move(*point)
        tab.mouse.up()


def screenshot(file: Path) -> bytes:
    """The page in `file` as a PNG, with a digit on the board."""
    with browser() as chromium:
        tab = chromium.new_page(viewport=SIZE)
        tab.goto(file.resolve().as_uri())
        tab.wait_for_selector("main:visible")
        draw(tab, THREE)
        slider = tab.locator("#temperature")
        slider.fill(str(TEMPERATURE))
        slider.blur()
        return tab.screenshot()


def main() -> None:
    command = "python -m results.screenshot"
    parser = Parser(f"{command}\n", prog=command, description=__doc__)
    data_flags(parser)
    args = parser.parse_args()
    mnist = load_mnist(args.data_dir, args.data)
    if mnist.name != "MNIST":
        raise UserError("the picture shows MNIST's test images, not those of the bundled sample")
    content = page("explore", explored(PUBLISHED, mnist))
    FIGURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        file = Path(folder, "explore.html")
        replace_file(file, content)
        replace_file(FIGURES / "explore.png", screenshot(file))
    print("figures/explore.png")


if __name__ == "__main__":
    run_script(main)
