"""How much two rankings of a site's neurons agree: over their top sets, and from the top down."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

PERSISTENCE = 0.98
"""Of rank-biased overlap: how likely a reader of a ranking is to go on to the next neuron; the first 50 neurons weigh 0.85 of it."""


def rank_biased_overlap(first: Ints, second: Ints, persistence: float = PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two rankings without ties (Webber, Moffat and Zobel, ACM TOIS 28, 2010, equation 32).

    In [0, 1]; 1 for equal rankings. Agreement at depth d, the share of neurons that both have among their first d, weighs
    (1 - p) p^(d - 1).

    Args:
        first, second: neurons from the top, each once; both equally long.
        persistence: p, in (0, 1).

    Raises:
        ValueError: their lengths differ, or p is out of bounds.
    """
    if len(first) != len(second) or not 0 < persistence < 1:
        raise ValueError("rankings of one length and a persistence within (0, 1) are needed")
    depth = len(first)
    if depth == 0:
        return 1.0
    places = {int(neuron): at for at, neuron in enumerate(second)}
    # a neuron is shared from the depth on at which the later of its two places is reached
    reached = np.array(
        [max(at, places[neuron]) for at, neuron in enumerate(first.tolist()) if neuron in places], dtype=np.int64
    )
    shared = np.cumsum(np.bincount(reached, minlength=depth))
    agreement = shared / np.arange(1, depth + 1)
    weights = persistence ** np.arange(1, depth + 1)
    return float(min(1.0, agreement[-1] * weights[-1] + (1 - persistence) / persistence * (agreement @ weights)))
