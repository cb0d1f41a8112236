"""Saliency: scores that rank the neurons of a site for a concept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from neuronlens.artifact import hash_value
from neuronlens.ranges.moments import Array, Moments
from neuronlens.sites import Site, top_count

Ints = npt.NDArray[np.int64]


def mean_abs(concept: Moments, rest: Moments) -> Array:  # noqa: ARG001  (saliencies share one signature)
    """[D] mean |a| over the concept's rows (the reference's). It has no contrast: a few massive dimensions top every concept."""
    return concept.mean_abs


def d_prime(concept: Moments, rest: Moments) -> Array:
    """[D] |mean_concept - mean_rest| / sqrt((var_concept + var_rest) / 2), the sensitivity index.

    Infinite where both are constant and differ, 0 where they do not.
    """
    difference = np.abs(concept.mean - rest.mean)
    spread = np.sqrt((concept.std**2 + rest.std**2) / 2)
    apart = np.where(difference > 0, np.inf, 0.0)
    return np.divide(difference, spread, out=apart, where=spread > 0)


SALIENCIES: dict[str, Callable[[Moments, Moments], Array]] = {"mean_abs": mean_abs, "d_prime": d_prime}


def random_scores(neurons: int, seed: int, site: Site, concept: str) -> Array:
    """[D] uniform scores that depend on the seed, the site and the concept, and on nothing else."""
    entropy = int(hash_value([seed, str(site), concept]), 16)
    return np.random.default_rng(entropy).random(neurons)


def top_set(scores: Array, share: float) -> Ints:
    """The first floor(share * D) neurons by falling score, ties by lower index.

    Raises:
        SiteError: that is no neuron at all.
    """
    return np.argsort(-scores, kind="stable")[: top_count(len(scores), share)].astype(np.int64)
