"""Columns of numbers as a few characters of text: what a page carries of tables that are too long to be written out.

A column is split into byte planes: all first bytes, then all second bytes, and so on. Bytes of one kind are alike and compress, while what
stands between them does not. The planes of all columns are deflated in one piece and written in base64, which is inert in HTML.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.number[Any]]

DECADES = 36
"""How many of them a column spans: with 900 digits and two signs each, 16 bits have room for no more."""
ZERO, LOWEST, HIGHEST, MISSING = 0, 65533, 65534, 65535
"""Codes of what has no digits: zero, the infinities, and what is not known."""

_DIGITS = 3
_MANTISSAS = 9 * 10 ** (_DIGITS - 1)
_LEVEL = 6  # the best one takes seven times as long, for a hundredth of the size
_TIE = 1e-6  # units of the last digit: nearer to a tie than this, a quotient of floats may fall on its other side


def decimals(values: npt.ArrayLike) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]]:
    """Values rounded to 3 significant decimal digits, `digits * 10^exponent` with 100 <= digits <= 999, in 16 bits each.

    These are the digits of Python's `format(value, ".2e")`, so a reader who shows 3 of them shows those of the value itself. The relative
    error is at most 0.5 %, whatever the magnitude; a value that is more than 34 decades smaller than the largest may become 0.

    Args:
        values: of any shape; NaN is what is missing.

    Returns:
        [1] the smallest exponent of the column, and the codes, shaped as the values:
        `1 + ((exponent - smallest) * 2 + (1 if negative else 0)) * 900 + digits - 100`, or one of `ZERO`, `LOWEST`, `HIGHEST`, `MISSING`.
    """
    given = np.asarray(values, dtype=np.float64)
    size = np.abs(given)
    some = np.isfinite(size) & (size > 0)
    digits, exponent = _rounded(size[some])
    smallest = int(exponent.max()) - DECADES + 1 if len(exponent) else 0
    code = 1 + ((exponent - smallest) * 2 + (given[some] < 0)) * _MANTISSAS + digits - 10 ** (_DIGITS - 1)
    codes = np.full(given.shape, ZERO, dtype=np.uint16)
    codes[some] = np.where(exponent < smallest, ZERO, code)
    for special, found in ((LOWEST, given == -np.inf), (HIGHEST, given == np.inf), (MISSING, np.isnan(given))):
        codes[found] = special
    return np.array([smallest], dtype=np.int16), codes


def _rounded(size: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Digits and exponents of positive numbers."""
    exponent = np.floor(np.log10(size)).astype(np.int64) - (_DIGITS - 1)
    # in two steps, since 10^-(exponent) of the smallest floats would be infinite
    scaled = size * 10.0 ** -(exponent // 2) * 10.0 ** -(exponent - exponent // 2)
    digits = np.rint(scaled).astype(np.int64)
    for at in np.flatnonzero(np.abs(scaled - np.floor(scaled) - 0.5) < _TIE):
        mantissa, _, power = f"{size[at]:.{_DIGITS - 1}e}".partition("e")
        digits[at], exponent[at] = int(mantissa.replace(".", "")), int(power) - (_DIGITS - 1)
    carried = digits >= 10**_DIGITS  # 999.7 is 1.00e3
    return np.where(carried, digits // 10, digits), exponent + carried


def packed(columns: Sequence[Column]) -> str:
    """Base64 of the columns' deflated byte planes, little-endian, one behind the other. Who unpacks them knows their kinds and lengths."""
    return packed_bytes(b"".join(_planes(column) for column in columns))


def packed_bytes(content: bytes) -> str:
    """Base64 of deflated bytes (zlib's format, without a time or a name)."""
    return base64.b64encode(zlib.compress(content, _LEVEL)).decode("ascii")


def fitting(count: int, size: Callable[[int], int], budget: int) -> int:
    """How many of `count` things, taken in their order, stay within a budget: all, or so many that they leave less than a hundredth of it
    or one more would not fit.

    Args:
        size: of the first so many; it grows with their number, about evenly: it is guessed from there, since to know it takes long.
    """
    fits, room, fails, excess = 0, budget, count + 1, 0
    guess = count
    while fails - fits > 1 and room > budget // 100:
        over = size(guess) - budget
        if over <= 0:
            fits, room = guess, -over
        else:
            fails, excess = guess, over
        guess = min(max(fits + (fails - fits) * room // (room + excess + 1), fits + 1), fails - 1)
    return fits


def _planes(column: Column) -> bytes:
    little = np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).reshape(-1)
    return little.view(np.uint8).reshape(-1, little.itemsize).T.tobytes()
