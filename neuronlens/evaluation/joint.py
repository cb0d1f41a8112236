"""Joint edits: what the validation rows chose for a concept at its best sites, all made in one forward pass, and what that gains.

Sites are ranked by the rule that chose their settings. The gain is a joint edit's selectivity minus that of the best site's edit alone, on
the same test rows; since the best site is named by validation rows, chance does not favour it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.evaluation.choice import rank
from neuronlens.evaluation.contrasts import row_parts
from neuronlens.evaluation.measure import MEASURED, SELECTIVITY, adjusted, measure
from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.questions import COLUMNS as QUESTION_COLUMNS
from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.summary import IDENTITY, sign_flip_p, summarise
from neuronlens.evaluation.text import PERPLEXITY
from neuronlens.evaluation.uncertainty import Estimate, change_of_rate, difference, mean, total
from neuronlens.interventions.kinds import Joint
from neuronlens.values import Pooling

GAINS = {"accuracy": "gain", "confidence": "confidence_gain"}
_FURTHEST = (-2.0, 2.0)  # each selectivity lies between -1 and 1, but for its sign
_SPREAD = tuple(f"{name}{end}" for name in GAINS.values() for end in ("", "_low", "_high"))
COLUMNS = (
    *("concept", "count", "concepts", "sites", "settings", "best_site", "n_target", "n_complement"),
    *(*MEASURED, *PERPLEXITY, *QUESTION_COLUMNS, *_SPREAD, "gain_p", "gain_p_adjusted"),
)
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("concept", "best_site"), pa.string()),
    **dict.fromkeys(("sites", "settings"), pa.list_(pa.string())),
    **dict.fromkeys(("count", "concepts", "n_target", "n_complement"), pa.int32()),
}

SCHEMA = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in COLUMNS])

Array = npt.NDArray[np.float64]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class JointMethod:
    """What is edited together for a concept.

    Attributes:
        concept: whose.
        methods: one a site, the best site first.
    """

    concept: str
    methods: tuple[Method, ...]

    @property
    def in_order(self) -> list[Method]:
        """The methods in the order of their layers."""
        return sorted(self.methods, key=lambda method: method.ranges.site)

    @property
    def identity(self) -> dict[str, Any]:
        """The columns of joint.parquet that say what was done."""
        methods = self.in_order
        return {
            "concept": self.concept,
            "count": len(methods),
            "concepts": 1,
            "sites": [str(method.ranges.site) for method in methods],
            "settings": [method.name for method in methods],
            "best_site": str(self.methods[0].ranges.site),
        }

    def edit(self, pooling: Pooling) -> Joint:
        """What it does to the model."""
        return Joint.of(method.edit(pooling) for method in self.methods)


def joint_methods(
    candidates: Sequence[Method],
    chosen: Mapping[tuple[str, str, str], int],
    validated: Sequence[Row],
    counts: Sequence[int],
) -> list[JointMethod]:
    """The joint edits of every concept, concept by concept; none where no validation rows say which sites are best.

    Args:
        candidates: of the tuned method.
        chosen: (site, concept, family) -> place of what was chosen among them.
        validated: what the validation rows say of each candidate; empty where there are none.
        counts: how many sites to edit together; as many as there are where there are fewer.
    """
    found = []
    for concept in dict.fromkeys(concept for _, concept, _ in chosen):
        own = [i for (_, name, family), i in chosen.items() if (name, family) == (concept, "tuned")]
        own = [i for i in own if validated and validated[i]["selectivity"] is not None]
        selectivity, confidence = (np.array([validated[i][name] for i in own]) for name in SELECTIVITY.values())
        best = [candidates[own[i]] for i in rank([candidates[i] for i in own], selectivity, confidence)]
        for count in dict.fromkeys(min(count, len(best)) for count in counts):
            if count > 1:
                found.append(JointMethod(concept, tuple(best[:count])))
    return found


@dataclass(frozen=True)
class JointScores:
    """What was measured of joint edits.

    Attributes:
        methods: J joint edits.
        scores: of the test rows, under each.
        perplexities, questions: [J] columns of either.
    """

    methods: Sequence[JointMethod]
    scores: RowScores
    perplexities: Sequence[Row]
    questions: Sequence[Row]


def joint_table(found: JointScores, alone: RowScores, places: Sequence[int], seed: int) -> pa.Table:
    """joint.parquet: one row per concept and number of sites; behind them the means over concepts, one per number.

    Args:
        alone: of the test rows, under edits of single sites.
        places: [J] index of the best site's edit among these, from 1.
        seed: decides the drawn patterns of the tests.
    """
    first = alone.predicted.shape[0]
    scores = alone.beside(found.scores)
    pairs = [(first + i, place) for i, place in enumerate(places)]  # of each joint edit and of its best site's
    rows = [
        method.identity
        | measure(scores, method.concept, [joint])[0]
        | {**perplexity, **questions}
        | _gain(scores, method.concept, joint, best, seed)
        for method, perplexity, questions, (joint, best) in zip(
            found.methods, found.perplexities, found.questions, pairs, strict=True
        )
    ]
    rows += _means(scores, rows, pairs, seed)
    families = [None if row["concept"] is None else row["count"] for row in rows]
    for name in ("target_p", "complement_p", "gain_p"):
        for row, p in zip(rows, adjusted([row.get(name) for row in rows], families), strict=True):
            row[f"{name}_adjusted"] = p
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _gain(scores: RowScores, concept: str, joint: int, best: int, seed: int) -> dict[str, float | None]:
    """By how much a joint edit is more selective than its best site's alone; intervals and test over rows. None without rows of a group."""
    own = scores.truth == scores.concepts.index(concept)
    if not own.any() or own.all():
        return dict.fromkeys((*_SPREAD, "gain_p"))
    right, sure = scores.correct, scores.confidence.astype(np.float64)
    drops: dict[str, list[Estimate]] = {measured: [] for measured in GAINS}
    for members in (own, ~own):
        one, both = right[best, members], right[joint, members]
        drops["accuracy"].append(change_of_rate([(one & ~both).sum()], [(~one & both).sum()], int(members.sum())))
        drops["confidence"].append(mean((sure[best] - sure[joint])[None, members], limits=(-1, 1)))
    weights = np.where(own, 1 / own.sum(), -1 / (~own).sum())
    found: dict[str, float | None] = {}
    for measured, name in GAINS.items():
        found |= _spread(name, difference(*drops[measured]))
    lost = right[best].astype(np.float64) - right[joint]
    return found | {"gain_p": _swap_p((lost * weights)[None], seed)}


def _means(
    scores: RowScores, rows: Sequence[Row], pairs: Sequence[tuple[int, int]], seed: int
) -> Iterator[dict[str, Any]]:
    """Means over concepts: drops and selectivities with intervals over concepts, gains over the rows of these concepts."""
    for count in dict.fromkeys(row["count"] for row in rows):
        places = [i for i, row in enumerate(rows) if row["count"] == count and row["selectivity"] is not None]
        if not places:
            continue
        unnamed = dict.fromkeys(IDENTITY)
        [own] = summarise([{**rows[i], **unnamed} for i in places])
        concepts = [rows[i]["concept"] for i in places]
        found = {name: own[name] for name in own if name in COLUMNS} | {"concept": None, "count": count}
        for measured, name in GAINS.items():
            (both, most), (one, _) = (
                row_parts(scores, [pairs[i][k] for i in places], concepts, measured, 1.0, -1.0) for k in (0, 1)
            )
            unseen = most if measured == "accuracy" else 0.0
            found |= _spread(name, total(both - one, scores.truth, unseen, _FURTHEST))
            if measured == "accuracy":
                found["gain_p"] = _swap_p(both - one, seed)
        yield found


def _swap_p(parts: Array, seed: int) -> float:
    """Of a test that swaps the two edits row by row. Rows that both answer alike make no difference to it."""
    return float(sign_flip_p(parts[:, parts[0] != 0], seed)[0])


def _spread(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {f"{name}{end}": float(part[0]) for end, part in zip(("", "_low", "_high"), estimate, strict=True)}
