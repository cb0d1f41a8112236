"""One neuron by all that an audit knows of it: how concepts drive it, how it ranks, what it takes part in, what it answers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuronlens.artifact import damaged
from neuronlens.errors import UserError, did_you_mean
from neuronlens.report.finished import audit_of
from neuronlens.report.neurons.activations import SET_OF_RANGES, ConceptActivations, concepts_at
from neuronlens.report.neurons.place import check_place, rows_at
from neuronlens.report.table import is_main
from neuronlens.sites import top_count
from neuronlens.values import WIDTHS

Row = Mapping[str, Any]

_EDITS = (*WIDTHS, "tuned")
_MEASURED = ("target_accuracy_drop", "complement_accuracy_drop", "selectivity")
_EFFECT = (
    *("concept", "method", "setting", "kind", "role", "saliency", "top", "tau", "operator", "positions", "neurons"),
    *(f"{name}{end}" for name in _MEASURED for end in ("", "_low", "_high")),
)


@dataclass(frozen=True)
class TopSets:
    """The concepts among whose most salient neurons this one is, by one ranking."""

    saliency: str
    top: float
    concepts: tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """How alike two concepts' activations are in this neuron, 0 to 1 (see docs/method.md)."""

    concept: str
    other: str
    histogram_overlap: float
    bhattacharyya: float


@dataclass(frozen=True)
class Example:
    """A fit row on which the neuron is most (`highest`) or least (`lowest`) active; place 0 is the most extreme. The text is untrusted."""

    end: str
    place: int
    row: int
    concept: str
    value: float
    text: str


@dataclass(frozen=True)
class NeuronCard:
    """One neuron of an audit.

    Attributes:
        audit: name of its folder.
        site, neuron: which.
        module: path of the module in the model.
        neurons: how many the site has.
        low, high: outer edges of the histograms, equal bins that all concepts share, as many as the rows of all concepts span.
        concepts: in alphabetical order.
        top_sets: by every ranking whose top sets were edited.
        overlaps: of every pair of concepts.
        examples: highest, then lowest; none where the audit is older than these.
        effects: rows of audit.json's `results` for the edits it takes part in that findings speak of; controls are left out.
    """

    audit: str
    site: str
    neuron: int
    module: str
    neurons: int
    low: float
    high: float
    concepts: tuple[ConceptActivations, ...]
    top_sets: tuple[TopSets, ...]
    overlaps: tuple[Overlap, ...]
    examples: tuple[Example, ...]
    effects: tuple[Row, ...]

    @classmethod
    def read(cls, audit: Path | str, site: str, neuron: int) -> NeuronCard:
        """The card of a neuron.

        Args:
            audit: folder of an audit.
            site: such as `resid_post.3`.
            neuron: index, from 0.

        Raises:
            UserError: there is no such audit, site or neuron.
            ArtifactError: the audit is damaged.
        """
        folder, document = Path(audit), audit_of(audit)
        own = check_place(document, site, neuron)
        ranges = rows_at(folder / "fit" / "ranges.parquet", None, site, neuron)
        concepts, spanned = concepts_at(folder, document, own, neuron, ranges)
        return cls(
            folder.resolve().name,
            site,
            neuron,
            own["module"],
            own["neurons"],
            *spanned,
            concepts,
            _top_sets(folder, own, concepts),
            tuple(
                Overlap(row["concept"], row["other"], row["histogram_overlap"], row["bhattacharyya"])
                for row in rows_at(folder / "fit" / "overlap.parquet", None, site, neuron)
            ),
            _examples(folder, site, neuron),
            _effects(document, site, ranges),
        )

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """[B + 1] edges of the bins."""
        return np.linspace(self.low, self.high, len(self.concepts[0].counts) + 1)

    def concept(self, name: str) -> ConceptActivations:
        """How it behaves on one concept.

        Raises:
            UserError: there is no such concept.
        """
        known = {part.concept: part for part in self.concepts}
        if name not in known:
            raise UserError(f"unknown concept {name!r}", where=self.audit, cure=did_you_mean(name, known))
        return known[name]

    @property
    def most_selective(self) -> str:
        """The concept with the highest d'; of equal ones the first."""
        return max(self.concepts, key=lambda part: part.score("d_prime").value).concept


def _top_sets(folder: Path, own: Row, concepts: Sequence[ConceptActivations]) -> tuple[TopSets, ...]:
    """By the rankings of polysemanticity.parquet, in their order."""
    rows = rows_at(folder / "fit" / "polysemanticity.parquet", ("saliency", "top"), own["site"])
    return tuple(
        TopSets(
            saliency,
            top,
            tuple(part.concept for part in concepts if part.score(saliency).rank <= top_count(own["neurons"], top)),
        )
        for saliency, top in dict.fromkeys((row["saliency"], row["top"]) for row in rows)
    )


def _examples(folder: Path, site: str, neuron: int) -> tuple[Example, ...]:
    file = folder / "fit" / "examples.parquet"
    if not file.exists():
        return ()
    rows = rows_at(file, None, site, neuron)
    texts = folder / "prepare" / "dataset.parquet"
    try:
        wanted = pc.field("row").isin(pa.array([row["row"] for row in rows], pa.int64()))
        known = pq.read_table(texts, columns=["row", "text", "concept"], filters=wanted, partitioning=None).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise damaged(texts, error) from error
    of = {row["row"]: row for row in known}
    return tuple(
        Example(row["end"], row["place"], row["row"], of[row["row"]]["concept"], row["value"], of[row["row"]]["text"])
        for row in sorted(rows, key=lambda row: (row["end"], row["place"]))
    )


def _effects(document: Row, site: str, ranges: Sequence[Row]) -> tuple[Row, ...]:
    held = {(row["role"], *(row[name] for name in SET_OF_RANGES)) for row in ranges}
    found = []
    for row in document["results"]:
        if row["site"] != site:
            continue
        role = "tuned" if row["role"] == "chosen" else row["role"]
        part = (role, *(row[name] for name in SET_OF_RANGES)) in held
        if part and row["kind"] in _EDITS and is_main(row, document):
            found.append({name: row[name] for name in _EFFECT})
    order = {concept: place for place, concept in enumerate(sorted({row["concept"] for row in found}))}
    return tuple(sorted(found, key=lambda row: order[row["concept"]]))
