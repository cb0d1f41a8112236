"""Edited and unedited text side by side in a terminal, in characters that draw."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neuronlens.interventions.continuation import Continuation
from neuronlens.interventions.lens import Lens
from neuronlens.pages.text import count, significant, visible

_LONGEST = 4000  # characters of a text


def show_texts(found: Sequence[Continuation], lenses: Sequence[Lens]) -> None:
    """Print what was written behind each prompt: a table in a terminal, a line a text elsewhere."""
    console = Console(highlight=False, markup=False)
    between = "\n" if console.is_terminal else "\\n"
    for place, each in enumerate(found):
        if place:
            console.print()
        console.print(Text(_shown(each.prompt, between), style="bold"), soft_wrap=not console.is_terminal)
        if console.is_terminal:
            table = Table(expand=True, show_lines=False)
            table.add_column("unedited", ratio=1)
            table.add_column("edited", ratio=1)
            table.add_row(*(Text(_shown(text, between)) for text in (each.unedited, each.edited)))
            console.print(table)
        else:
            for name in ("unedited", "edited"):
                console.print(f"{name:8s}  {_shown(getattr(each, name), between)}", soft_wrap=True)
        for lens, changed, looked_at in zip(lenses, each.changed, each.looked_at, strict=True):
            share = f" ({significant(100 * changed / looked_at)} %)" if looked_at else ""
            sites = " and ".join(map(str, lens.sites))
            line = (
                f"{visible(lens.concept)} at {sites}: {changed:,} of {count(looked_at, 'activation')} in range{share}"
            )
            console.print(line, soft_wrap=True)


def _shown(text: str, between: str) -> str:
    """A text whose lines are drawn as such, or with a sign `between` them."""
    return between.join(visible(line, _LONGEST) for line in text.split("\n"))
