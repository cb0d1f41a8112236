"""The index over all audits: one page that is extended, never written anew, so that what became of an audit stays when the audit has gone.

An entry stands between two comments; the first says which audit it is of, where it belongs, what it was made of, and what its text must
hash to. Adding an audit or refreshing it touches its own entry alone. What stands around the entries is written with each change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from neuronlens.pages.environment import fragment, page
from neuronlens.pages.figures.strips import value_strip
from neuronlens.report.context import Numbers
from neuronlens.report.verdict import Verdict

ACCURACY_AXIS, SELECTIVITY_AXIS = (0.0, 1.0), (-0.5, 1.0)
"""The same in all entries of all times: the column of strips is the trend. Selectivity may lie below, and is then drawn at the end."""

_ENTRY = re.compile(
    r"<!-- audit (?P<key>[0-9a-f]{16}) (?P<line>(?:[0-9a-f]{2})*) (?P<order>-?\d+) (?P<basis>[0-9a-f]{64}) (?P<digest>[0-9a-f]{64}) -->\n"
    r"(?P<html>.*?)<!-- end of audit (?P=key) -->\n",
    re.DOTALL,
)
_BEGIN = "<!-- audit "


@dataclass(frozen=True)
class Entry:
    """Of an audit.

    Attributes:
        key: of its name.
        line: name of the line of checkpoints that it is one of; empty for an audit of its own.
        order: its place in the line.
        basis: identity of what the entry was made of.
        html: its text, with a newline at the end.
    """

    key: str
    line: str
    order: int
    basis: str
    html: str

    @property
    def text(self) -> str:
        """As it stands in the file."""
        digest = hashlib.sha256(self.html.encode()).hexdigest()
        head = f"<!-- audit {self.key} {self.line.encode().hex()} {self.order} {self.basis} {digest} -->"
        return f"{head}\n{self.html}<!-- end of audit {self.key} -->\n"


def key_of(name: str) -> str:
    """Of an audit's name, whatever is in it."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def entry(
    name: str,
    numbers: Numbers,
    ruling: Verdict,
    *,
    dataset: str,
    basis: str,
    line: str = "",
    order: int = 0,
    day: str | None = None,
    comparison: str | None = None,
) -> Entry:
    """The entry of an audit.

    Args:
        name: of its folder.
        numbers: its checkpoint, main numbers, and the relative address of its page.
        ruling: what its gates say.
        dataset: name of the data.
        basis: identity of what the entry is made of.
        line, order: see `Entry`.
        day: on which the audit was made, as 2027-01-31.
        comparison: relative address of the comparison with the audit before it.
    """
    strips = {
        measured: value_strip(value, numbers.values[f"{measured}_low"], numbers.values[f"{measured}_high"], *axis)
        for measured, axis in (("accuracy", ACCURACY_AXIS), ("selectivity", SELECTIVITY_AXIS))
        if (value := numbers.values[measured]) is not None
    }
    html = fragment(
        "audit/entry.html",
        {
            "name": name,
            "numbers": numbers,
            "ruling": ruling,
            "dataset": dataset,
            "day": day,
            "comparison": comparison,
            "strips": strips,
        },
    )
    return Entry(key_of(name), line, order, basis, f"{html.strip()}\n")


def read(text: str) -> tuple[list[Entry], bool]:
    """The entries of an index that are whole, in their order; and whether the file is."""
    found: dict[str, Entry] = {}
    whole = text.startswith("<!doctype html>") and text.endswith("</html>\n") and _BEGIN in text
    for match in _ENTRY.finditer(text):
        made = Entry(
            match["key"],
            bytes.fromhex(match["line"]).decode(errors="replace"),
            int(match["order"]),
            match["basis"],
            match["html"],
        )
        if made.text != match[0] or made.key in found:
            whole = False
        else:
            found[made.key] = made
    return [*found.values()], whole and text.count(_BEGIN) == len(found)


def added(entries: Sequence[Entry], new: Entry) -> list[Entry]:
    """The entries with one more, or with one refreshed. The newest line stands on top, and in it the newest checkpoint."""
    known = next((place for place, old in enumerate(entries) if old.key == new.key), None)
    if known is not None and (entries[known].line, entries[known].order) == (new.line, new.order):
        return [*entries[:known], new, *entries[known + 1 :]]
    others = [old for old in entries if old.key != new.key]
    later = [old for old in others if new.line and old.line == new.line and old.order > new.order]
    if later:  # a checkpoint that came late stands behind those that follow it
        place = others.index(later[-1]) + 1
        return [*others[:place], new, *others[place:]]
    return [new, *others]


def index_html(entries: Sequence[Entry]) -> str:
    """The page, line by line in the order of their first entries."""
    lines: dict[str, list[Entry]] = {}
    for each in entries:
        lines.setdefault(each.line, []).append(each)
    values: Mapping[str, Any] = {
        "lines": {line: Markup("".join(each.text for each in own)) for line, own in lines.items()},
        "count": len(entries),
        "axes": (ACCURACY_AXIS, SELECTIVITY_AXIS),
    }
    return page("audits.html", values) + "\n"
