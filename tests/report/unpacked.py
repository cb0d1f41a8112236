"""The other side of `neuronlens.report.explorer.columns`, as the page's script has it, for tests."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from neuronlens.report.explorer.columns import HIGHEST, LOWEST, MISSING, ZERO

_SPECIAL = {ZERO: 0.0, LOWEST: -np.inf, HIGHEST: np.inf, MISSING: np.nan}


class Reader:
    """Takes columns off packed text, in the order in which they were packed."""

    def __init__(self, text: str) -> None:
        self.content = zlib.decompress(base64.b64decode(text))

    def take(self, kind: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """[count] numbers of a kind."""
        width = np.dtype(kind).itemsize
        planes, self.content = self.content[: width * count], self.content[width * count :]
        return np.frombuffer(planes, np.uint8).reshape(width, count).T.copy().view(kind).reshape(count)

    def take_decimals(self, count: int) -> npt.NDArray[np.float64]:
        """[count] decimals; NaN where nothing is known."""
        return values_of(self.take(np.int16, 1), self.take(np.uint16, count))


def values_of(smallest: npt.NDArray[np.int16], codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """What decimals stand for."""
    return np.array([_SPECIAL[code] if code in _SPECIAL else _value(code - 1, smallest[0]) for code in codes.tolist()])


def _value(code: int, smallest: int) -> float:
    place, digits = divmod(code, 900)
    exponent, negative = divmod(place, 2)
    return float(f"{'-' if negative else ''}{digits + 100}e{exponent + smallest}")
