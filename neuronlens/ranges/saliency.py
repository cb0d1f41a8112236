"""Saliency: scores that rank the neurons of a site for a concept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

from neuronlens.artifact import hash_value
from neuronlens.sites import Site, top_count
from neuronlens.streaming.moments import Array, Moments

Ints = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating]

TEMPORARY_BYTES = 64 * 2**20
# float64 arrays as large as the chunk that ranking it keeps alive at once
TEMPORARIES = 8

# The probe's penalty, per row of the data so that it does not weaken as rows are added: 5e-4 times the sum of |w| and 2e-2 times half the
# sum of w^2. The lasso part is small because neurons without a weight tie, and a top set must not be filled by ties; the ridge part is what
# makes the fit converge where concepts are separable.
PROBE_PENALTY = 0.0205
PROBE_LASSO_SHARE = 5e-4 / PROBE_PENALTY
PROBE_TOLERANCE = 3e-3


def mean_abs(concept: Moments, rest: Moments) -> Array:
    """[D] mean |a| over the concept's rows (the reference's). It has no contrast: a few massive dimensions top every concept."""
    return concept.mean_abs


def mean(concept: Moments, rest: Moments) -> Array:
    """[D] mean activation of the concept's rows, with its sign: neurons that the concept drives up come first. No contrast either."""
    return concept.mean


def probeless(concept: Moments, rest: Moments) -> Array:
    """[D] |mean_concept - mean_rest| (Antverg and Belinkov 2022, against the pooled rest). Not scaled: wide neurons come first."""
    return np.abs(concept.mean - rest.mean)


def d_prime(concept: Moments, rest: Moments) -> Array:
    """[D] |mean_concept - mean_rest| / sqrt((var_concept + var_rest) / 2), the sensitivity index.

    Infinite where both are constant and differ, 0 where they do not.
    """
    difference = np.abs(concept.mean - rest.mean)
    spread = np.sqrt((concept.std**2 + rest.std**2) / 2)
    apart = np.where(difference > 0, np.inf, 0.0)
    return np.divide(difference, spread, out=apart, where=spread > 0)


SALIENCIES: dict[str, Callable[[Moments, Moments], Array]] = {
    "mean_abs": mean_abs,
    "mean": mean,
    "probeless": probeless,
    "d_prime": d_prime,
}


def auroc_scores(values: Sequence[Values]) -> Array:
    """[C, D] |2 AUROC - 1| of each concept's rows against all other rows, ties counted half; 0 for a constant neuron.

    From rank sums (Mann and Whitney 1947), so that one ranking of a neuron's rows serves every concept.

    Args:
        values: [C] arrays [D, n_c], at least two concepts with at least one row each.
    """
    sizes = np.array([part.shape[1] for part in values])
    neurons, total = len(values[0]), int(sizes.sum())
    starts = np.cumsum(sizes) - sizes
    found = np.empty((len(values), neurons))
    step = max(1, TEMPORARY_BYTES // (8 * TEMPORARIES * total))
    for start in range(0, neurons, step):
        ranks = scipy.stats.rankdata(np.concatenate([part[start : start + step] for part in values], axis=1), axis=1)
        sums = np.add.reduceat(ranks, starts, axis=1).T
        # twice the wins minus the pairs: whole numbers, so that neurons of the same order tie to the bit, up to their sign
        ahead = 2 * sums - (sizes * (total + 1))[:, None]
        found[:, start : start + step] = np.abs(ahead) / (sizes * (total - sizes))[:, None]
    return found


def binned_auroc_scores(counts: npt.NDArray[np.integer]) -> Array:
    """[C, D] `auroc_scores` of values of which only the bins are known: values of one bin count as ties, so a score is off by the share of
    such pairs at the most.

    Args:
        counts: [C, B, D] on bins that a neuron's concepts share, each with at least one row.
    """
    everyone = counts.sum(axis=0, dtype=np.int64)
    found = []
    for own in counts.astype(np.int64):
        rest = everyone - own
        below = np.cumsum(rest, axis=0) - rest
        pairs = own.sum(axis=0) * rest.sum(axis=0)
        found.append(np.abs((own * (2 * below + rest)).sum(axis=0) - pairs) / pairs)
    return np.stack(found)


@dataclass(frozen=True)
class Probe:
    """A linear probe of the concepts.

    Attributes:
        scores: [C, D] |weight| of each standardised neuron for each concept; many are exactly 0.
        iterations: passes over the rows.
        converged: the weights had settled when the passes ended. Scores of a probe that has not depend on the seed.
    """

    scores: Array
    iterations: int
    converged: bool


def fit_probe(values: Sequence[Values], seed: int, *, iterations: int = 100) -> Probe:
    """Elastic-net logistic regression of the concept on all neurons at once (Dalvi et al. 2019).

    Multinomial: one fit gives every concept its weights, in a third of the time that a fit per concept against the rest takes. With two
    concepts that is one vector of weights, and both score the same.

    Args:
        values: [C] arrays [D, n_c], at least two concepts with at least one row each.
        seed: of the order in which the solver visits rows; the same seed gives the same bytes.
        iterations: bound on the passes over the rows.
    """
    # slow to import, and only those who ask for a probe need it
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows = _standardised(values)
    concept = np.repeat(np.arange(len(values)), [part.shape[1] for part in values])
    model = LogisticRegression(
        solver="saga",
        C=1 / (PROBE_PENALTY * len(rows)),
        l1_ratio=PROBE_LASSO_SHARE,
        tol=PROBE_TOLERANCE,
        max_iter=iterations,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by `converged`
        model.fit(rows, concept)
    weights = np.abs(model.coef_.astype(np.float64))
    passes = int(model.n_iter_.max())
    return Probe(np.broadcast_to(weights, (len(values), rows.shape[1])).copy(), passes, passes < iterations)


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


def _standardised(values: Sequence[Values]) -> npt.NDArray[np.float32]:
    """[N, D] all rows, each neuron with mean 0 and std 1, a constant one 0; in chunks, as float64 would take twice the memory."""
    neurons, total = len(values[0]), sum(part.shape[1] for part in values)
    found = np.empty((total, neurons), dtype=np.float32)
    step = max(1, TEMPORARY_BYTES // (8 * TEMPORARIES * total))
    for start in range(0, neurons, step):
        chunk = np.concatenate([part[start : start + step] for part in values], axis=1).astype(np.float64)
        varies = chunk.min(axis=1) < chunk.max(axis=1)
        chunk -= chunk.mean(axis=1, keepdims=True)
        chunk *= np.divide(1, chunk.std(axis=1), out=np.zeros(len(chunk)), where=varies)[:, None]
        found[:, start : start + step] = chunk.T
    return found
