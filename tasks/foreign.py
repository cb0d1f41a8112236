"""Pages take the place of no file that somebody else has written."""

from __future__ import annotations

import os
from pathlib import Path

from neuronlens.errors import UserError

_GENERATOR = b'<meta name="generator" content="NeuronLens">'


def refuse_foreign_page(page: Path) -> None:
    """Look at what lies where a page is going to be.

    Raises:
        UserError: it is no page of NeuronLens.
    """
    if os.path.lexists(page) and not (page.is_file() and _GENERATOR in page.read_bytes()[:4096]):
        raise UserError(
            "is no page of NeuronLens", where=str(page), cure="Name another file with --out, or move it away."
        )
