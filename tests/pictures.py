"""The pictures of the documentation. `python -m tests.pictures` takes them of the page that `make audit` has made; in a browser."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks import browser as chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURES = ROOT / "audits" / "example" / "index.html", ROOT / "docs" / "images"
WIDTH = 1180
_ABOVE = 12  # pixels that are free above what is shown


@dataclass(frozen=True)
class Picture:
    """What is taken of a page.

    Attributes:
        name: of the file.
        top: selector of what stands uppermost.
        height: in pixels.
        place: behind the address of the page.
        dark: whether in dark mode.
    """

    name: str
    top: str
    height: int
    place: str = ""
    dark: bool = False


TAKEN = (
    Picture("verdict", "h1", 470),
    Picture("concepts", "#concepts", 760, dark=True),
    Picture("neuron", "#explorer-card", 820, place="#explorer?open=resid_post.3:117&of=sports"),
)


def take(browser: Browser, page: Path, picture: Picture, folder: Path) -> Path:
    """A picture as a PNG of few colours, which takes a third of the room."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": 900}, color_scheme="dark" if picture.dark else "light"
    )
    tab = context.new_page()
    tab.goto(page.as_uri() + picture.place)
    tab.wait_for_selector("#explorer-app")
    top = tab.locator(picture.top)
    top.wait_for()
    above = top.evaluate("(part) => part.getBoundingClientRect().top + window.scrollY") - _ABOVE
    seen = tab.screenshot(full_page=True, clip={"x": 0, "y": max(0, above), "width": WIDTH, "height": picture.height})
    context.close()
    file = folder / f"{picture.name}.png"
    Image.open(io.BytesIO(seen)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    return file


def main() -> None:
    with chromium.started() as browser:
        for picture in TAKEN:
            take(browser, PAGE, picture, PICTURES)


if __name__ == "__main__":
    main()
