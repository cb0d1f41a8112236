"""Quantiles of values that are sorted already: NumPy's, to the bit, without the selection of ranks that takes NumPy its time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neuronlens.streaming.moments import Array


def sorted_quantiles(ordered: npt.NDArray[np.floating], q: Sequence[float]) -> Array:
    """[Q, D] quantiles of at least one value per neuron [D, n], interpolated linearly in float64.

    Between float32 values interpolation in float32 would lose digits on neurons with a large mean.
    """
    place = np.asarray(q, dtype=np.float64) * (ordered.shape[1] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    share = (place - below)[:, None]
    low, high = (ordered[:, at].T.astype(np.float64) for at in (below, above))
    step = high - low
    # from the nearer end, as NumPy does
    found: Array = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    return found
