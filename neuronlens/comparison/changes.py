"""What changed between two checkpoints on the same test rows: the unedited models, and what each method does to them.

Every change is the second audit minus the first, row by row, so that what is hard about a row for both cancels. A change has an interval
over rows and the p value of a test that swaps the two checkpoints row by row: if it made no difference which is which, every assignment
would be as likely as the one that was seen (Fisher's randomisation test).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.comparison.stored import StoredAudit
from neuronlens.evaluation.measure import SELECTIVITY
from neuronlens.evaluation.summary import sign_flip_p
from neuronlens.evaluation.uncertainty import (
    LEVEL,
    Estimate,
    change_of_rate,
    contributions,
    difference,
    mcnemar_p,
    mean,
    ratio,
    total,
)
from neuronlens.sites import Site

Array = npt.NDArray[np.float64]
Key = tuple[str, str, str]
Place = tuple[str | None, str | None, str | None, str | None]

_MEASURES = ("accuracy", "confidence")
_FURTHEST = (-2.0, 2.0)  # a drop lies between -1 and 1, and so does the other


@dataclass(frozen=True)
class Change:
    """The second audit minus the first.

    Attributes:
        quantity: `base_accuracy`, `base_confidence`, `base_log_perplexity`, or a column of results.parquet.
        site, role, method: of the edit; None where the unedited models are compared.
        concept: edited, or of the rows; None over all of them.
        n: rows or documents.
        before, after: what either audit measured on these rows.
        value: after minus before.
        low, high: 95 % interval over rows.
        p: two-sided, of no change.
        adjusted: p over the concepts and sites of one quantity and method (Benjamini-Hochberg).
    """

    quantity: str
    site: str | None
    role: str | None
    method: str | None
    concept: str | None
    n: int
    before: float
    after: float
    value: float
    low: float
    high: float
    p: float
    adjusted: float = 1.0

    @property
    def direction(self) -> int:
        """1 or -1 where the change is clear of zero by interval and by corrected test, else 0."""
        if self.adjusted > 1 - LEVEL:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def base_changes(a: StoredAudit, b: StoredAudit, seed: int) -> list[Change]:
    """Of the unedited models on the test rows, together and per concept: accuracy (Tango's interval, McNemar's test) and confidence."""
    test = a.split("test")
    truth = a.truth[test]
    right = [audit.unedited["correct"].to_numpy(zero_copy_only=False)[test] for audit in (a, b)]
    sure = [audit.unedited["confidence"].to_numpy().astype(np.float64)[test] for audit in (a, b)]
    found: list[Change] = []
    for concept in (None, *a.concepts):
        own = np.full(len(truth), True) if concept is None else truth == a.concepts.index(concept)
        n = int(own.sum())
        if n == 0:
            continue
        before, after = right[0][own], right[1][own]
        lost, gained = int((before & ~after).sum()), int((~before & after).sum())
        # a drop turned round: what is gained is what the first lacks
        rate = change_of_rate([gained], [lost], n)
        found.append(
            _change(
                "base_accuracy",
                (None, None, None, concept),
                n,
                before.mean(),
                after.mean(),
                rate,
                mcnemar_p([lost], [gained]),
                0,
            )
        )
        shift = (sure[1] - sure[0])[own][None]
        found.append(
            _change(
                "base_confidence",
                (None, None, None, concept),
                n,
                sure[0][own].mean(),
                sure[1][own].mean(),
                mean(shift, limits=(-1.0, 1.0)),
                sign_flip_p(shift, seed),
                0,
            )
        )
    return found


def edit_changes(a: StoredAudit, b: StoredAudit, site: Site, seed: int) -> list[Change]:
    """Of every method that both audits ran at a site: drops on the concept and on the others, and selectivity, of accuracy and confidence.

    Each concept has its own rows; those over all concepts (`concept` None) are of the means over concepts, had other rows of them been
    drawn.
    """
    first, second = Edited.read(a, site), Edited.read(b, site)
    truth = a.truth[a.split("test")]
    found: list[Change] = []
    shared = [key for key in first.places if key in second.places]
    for concept, keys in groupby(sorted(shared), key=lambda key: key[0]):
        found += _concept_changes(first, second, site, concept, list(keys), truth == a.concepts.index(concept), seed)
    found += _mean_changes(first, second, site, shared, a.concepts, truth, seed)
    return found


@dataclass(frozen=True)
class Edited:
    """What an audit's methods did to the test rows at a site.

    Attributes:
        places: (concept, role, method) -> its place.
        drops: `accuracy`, `confidence` -> [M, N] drop of each row, in order of rows.
    """

    places: Mapping[Key, int]
    drops: Mapping[str, Array]

    @classmethod
    def read(cls, audit: StoredAudit, site: Site) -> Edited:
        """From the stage `evaluate`."""
        test = audit.split("test")
        rows = audit.dataset["row"].to_numpy()[test]
        table = audit.edited(site)
        n = len(rows)
        order = np.argsort(table["row"].to_numpy()[:n])  # the same rows in the same order, method by method
        drops = {}
        for name, column in (("accuracy", "correct"), ("confidence", "confidence")):
            base = audit.unedited[column].to_numpy(zero_copy_only=False)[test].astype(np.float64)
            edited = table[column].to_numpy(zero_copy_only=False).reshape(-1, n)[:, order]
            drops[name] = base - edited
        return cls(_places(audit, site, table, n), drops)

    def some(self, measure: str, keys: Iterable[Key]) -> Array:
        """[K, N] drops of some methods."""
        return self.drops[measure][[self.places[key] for key in keys]]


def _places(audit: StoredAudit, site: Site, table: pa.Table, n: int) -> dict[Key, int]:
    """Concept, role and method -> place in a table that has n rows of each. What was chosen stands there under its setting's name, too."""
    keys = [table[name].to_pylist()[::n] for name in ("concept", "role", "method")]
    places = {key: i for i, key in enumerate(zip(*keys, strict=True))}
    for row in audit.chosen:
        own = [places.get((row["concept"], role, row["setting"])) for role in ("tuned", "sweep")]
        found = next((place for place in own if place is not None), None)
        if row["site"] == str(site) and found is not None:
            places[row["concept"], "chosen", row["method"]] = found
    return places


def _concept_changes(
    first: Edited,
    second: Edited,
    site: Site,
    concept: str,
    keys: Sequence[Key],
    own: npt.NDArray[np.bool_],
    seed: int,
) -> list[Change]:
    if not own.any() or own.all():
        return []
    weights = np.where(own, 1 / own.sum(), -1 / (~own).sum())
    found = []
    for measure in _MEASURES:
        before, after = first.some(measure, keys), second.some(measure, keys)
        shift = after - before
        groups = {"target": own, "complement": ~own}
        estimates = {group: mean(shift[:, rows], limits=_FURTHEST) for group, rows in groups.items()}
        quantities: dict[str, tuple[int, Array, Array, Estimate, Array]] = {}
        for group, rows in groups.items():
            quantities[f"{group}_{measure}_drop"] = (
                int(rows.sum()),
                before[:, rows].mean(axis=1),
                after[:, rows].mean(axis=1),
                estimates[group],
                sign_flip_p(shift[:, rows], seed),
            )
        quantities[SELECTIVITY[measure]] = (
            len(own),
            before @ weights,
            after @ weights,
            difference(estimates["target"], estimates["complement"]),
            sign_flip_p(shift * weights, seed),
        )
        for quantity, (n, one, other, estimate, p) in quantities.items():
            found += [
                _change(quantity, (str(site), role, method, concept), n, one[i], other[i], estimate, p, i)
                for i, (_, role, method) in enumerate(keys)
            ]
    return found


def _mean_changes(
    first: Edited,
    second: Edited,
    site: Site,
    shared: Sequence[Key],
    concepts: Sequence[str],
    truth: npt.NDArray[np.int64],
    seed: int,
) -> list[Change]:
    """Of means over concepts, for the methods that both audits ran on the same concepts."""
    edited = {concept for concept, _, _ in shared}
    places = [place for place in np.unique(truth).tolist() if concepts[place] in edited]
    names = [concepts[place] for place in places]
    code = np.array([places.index(place) if place in places else -1 for place in truth.tolist()])
    methods = [
        key
        for key in dict.fromkeys((role, method) for _, role, method in shared)
        if all((name, *key) in first.places and (name, *key) in second.places for name in names)
    ]
    if len(names) < 2 or not methods:
        return []
    found = []
    for measure in _MEASURES:
        before, after = (
            np.stack([part.some(measure, [(name, *key) for name in names]) for key in methods])
            for part in (first, second)
        )
        for quantity, weights in (
            (SELECTIVITY[measure], (1.0, -1.0)),
            (f"target_{measure}_drop", (1.0, 0.0)),
            (f"complement_{measure}_drop", (0.0, 1.0)),
        ):
            (one, most), (other, _) = (
                contributions(part, np.arange(len(names)), code, *weights) for part in (before, after)
            )
            estimate = total(other - one, code, unseen=most if measure == "accuracy" else 0.0, limits=_FURTHEST)
            p = sign_flip_p(other - one, seed)
            found += [
                _change(quantity, (str(site), *key, None), len(truth), one[i].sum(), other[i].sum(), estimate, p, i)
                for i, key in enumerate(methods)
            ]
    return found


def text_changes(a: StoredAudit, b: StoredAudit, site: Site, seed: int) -> list[Change]:
    """Of logs of perplexities, paired on documents: of the unedited models, and of what each method that both audits ran does to them.

    That takes auxiliary text in both audits and as many tokens in each document: perplexities over other tokens do not compare.
    """
    tables = [audit.documents(site) for audit in (a, b)]
    if tables[0] is None or tables[1] is None:
        return []
    tokens, counts = zip(*(_documents(table) for table in tables if table is not None), strict=True)
    if not np.array_equal(*tokens):
        return []
    n = counts[0]
    base = [table["base_loss"].to_numpy()[:n] for table in tables if table is not None]
    found = [
        _text_change("base_log_perplexity", (None, None, None, None), base[0][None], base[1][None], tokens[0], seed)
    ]
    places = [_places(audit, site, table, n) for audit, table in zip((a, b), tables, strict=True) if table is not None]
    shared = [key for key in places[0] if key in places[1]]
    rises = [
        (table["loss"].to_numpy() - table["base_loss"].to_numpy()).reshape(-1, n)[[own[key] for key in shared]]
        for table, own in zip(tables, places, strict=True)
        if table is not None
    ]
    if shared:
        keys = [(str(site), role, method, concept) for concept, role, method in shared]
        found.append(_text_change("log_perplexity_ratio", keys, rises[0], rises[1], tokens[0], seed))
    return [change for part in found for change in part]


def _documents(table: pa.Table) -> tuple[npt.NDArray[np.int64], int]:
    """Tokens predicted in each document, and how many documents there are."""
    n = len(set(table["document"].to_pylist()))
    return table["predicted"].to_numpy()[:n].astype(np.int64), n


def _text_change(
    quantity: str,
    places: Sequence[Place] | Place,
    before: Array,
    after: Array,
    tokens: npt.NDArray[np.int64],
    seed: int,
) -> list[Change]:
    """Of [M, N] losses of documents, in nats."""
    estimate, p = ratio(after - before, tokens), sign_flip_p(after - before, seed)
    levels = [losses.sum(axis=1) / tokens.sum() for losses in (before, after)]
    listed: Sequence[Place] = [places] if isinstance(places, tuple) else places
    return [
        _change(quantity, place, len(tokens), levels[0][i], levels[1][i], estimate, p, i)
        for i, place in enumerate(listed)
    ]


def corrected(found: Sequence[Change]) -> list[Change]:
    """The changes with p values corrected over the concepts and sites of each quantity and method (Benjamini-Hochberg)."""
    from scipy.stats import false_discovery_control

    families: dict[object, list[int]] = {}
    for i, change in enumerate(found):
        key = change.quantity, change.role, change.method, change.concept is None
        families.setdefault(key, []).append(i)
    adjusted = np.ones(len(found))
    for members in families.values():
        adjusted[members] = false_discovery_control([found[i].p for i in members])
    return [replace(change, adjusted=float(p)) for change, p in zip(found, adjusted, strict=True)]


def _change(
    quantity: str,
    place: Place,
    n: int,
    before: float,
    after: float,
    estimate: Estimate,
    p: Array,
    i: int,
) -> Change:
    value, low, high = (float(part[i]) for part in estimate)
    return Change(quantity, *place, n, float(before), float(after), value, low, high, float(p[i]))
