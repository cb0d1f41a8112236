"""What the documentation shows can be taken of any audit's page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.pictures import TAKEN, WIDTH, Picture, take

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.parametrize("picture", TAKEN, ids=lambda picture: picture.name)
def test_a_picture_shows_what_it_is_taken_of(
    browser: Browser, reported: dict[str, Path], tmp_path: Path, picture: Picture
) -> None:
    card = "#explorer?open=mlp_post.1:3&of=law" if picture.place else ""
    file = take(browser, reported["report"] / "report.html", replace(picture, place=card), tmp_path)
    with Image.open(file) as image:
        assert image.size == (WIDTH, picture.height)
        seen = np.asarray(image.convert("L"), dtype=float)
    assert (seen.mean() < 128) == picture.dark
    assert seen.std() > 10, "something is on it"
