"""How words and numbers are written, the same on the page, in the summary and in findings."""

from __future__ import annotations

import math
import re
import unicodedata

MINUS = "\N{MINUS SIGN}"
NOT_MEASURED = "\N{EN DASH}"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # spelling needs them in several scripts
_MARKDOWN = re.compile(r"([!-/:-@\[-`{-~])")


def visible(text: str, limit: int = 200) -> str:
    """Text from data on one line, every character of which can be seen.

    Control and bidirectional characters could reorder or hide what stands beside them, and a NUL aborts the chart renderer's process; they
    are spelt out, such as `\\u202e`. Overlong text is cut.
    """
    # what Python calls printable has none of them, and that is most text
    spelt = text if text.isprintable() else "".join(map(_spelt, text))
    return spelt if len(spelt) <= limit else spelt[: limit - 1] + "…"


def markdown(text: str) -> str:
    """Text from data for Markdown: every ASCII punctuation mark is escaped, so that nothing becomes a link, an image or HTML."""
    return _MARKDOWN.sub(r"\\\1", visible(text))


def code(text: str) -> str:
    """A name from data for Markdown, as code: there nothing is a link, a mention or HTML, and dashes need no escape."""
    return f"`{visible(text, 60).replace('`', chr(39))}`"


def points(share: float | None, *, sign: bool = False) -> str:
    """A share or a difference of shares in percentage points, one decimal."""
    return number(None if share is None else 100 * share, 1, sign=sign)


def points_between(low: float | None, high: float | None) -> str:
    """An interval in percentage points, in brackets; empty where there is none."""
    return f"[{points(low)}, {points(high)}]" if low is not None and high is not None else ""


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number with a real minus sign; never a negative zero."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    rounded = round(value, decimals)
    text = f"{abs(rounded):,.{decimals}f}"
    return MINUS + text if rounded < 0 else f"+{text}" if sign and rounded > 0 else text


def significant(value: float | None, digits: int = 3) -> str:
    """A number of unknown size with so many significant digits."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"  # exactly nothing, which 0.00 would not say
    if 1e-3 <= abs(value) < 1e6:
        rounded = abs(float(f"{value:.{digits - 1}e}"))  # 0.9996 has as many digits as 1.00, which it is
        return number(value, max(0, digits - 1 - math.floor(math.log10(rounded))))
    return f"{value:.{digits - 1}e}".replace("-", MINUS)


def count(n: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _spelt(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
