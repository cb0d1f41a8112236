"""Which neurons a page lists, and how tables of the artifacts are laid out over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuronlens.artifact import damaged

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """Neurons sorted by site and number.

    Attributes:
        sites: names, in the order of the audit.
        concepts: [C] names, sorted.
        site, number: [N] place of each neuron's site, and its number there.
        score: [N] the highest d' that any concept has in it.
    """

    sites: Sequence[str]
    concepts: Sequence[str]
    site: Ints
    number: Ints
    score: Array

    @classmethod
    def of(cls, fit: Path, sites: Sequence[str], concepts: Sequence[str]) -> Listing:
        """All neurons of an audit.

        Args:
            fit: folder of the stage.
        """
        place, number, score = [], [], []
        for at, site in enumerate(sites):
            table = read_site(fit / "statistics.parquet", site, ["neuron", "d_prime"])
            best = table.group_by("neuron").aggregate([("d_prime", "max")]).sort_by("neuron")
            place.append(np.full(len(best), at, dtype=np.int64))
            number.append(best["neuron"].to_numpy().astype(np.int64))
            score.append(best["d_prime_max"].to_numpy())
        return cls(sites, concepts, np.concatenate(place), np.concatenate(number), np.concatenate(score))

    @property
    def shape(self) -> tuple[int, int]:
        """N, C."""
        return len(self.site), len(self.concepts)

    @property
    def ranked(self) -> Ints:
        """[N] places of the neurons from the highest score to the lowest; ties as they are listed."""
        return np.argsort(-self.score, kind="stable")

    def only(self, places: Ints) -> Listing:
        """Some of the neurons."""
        kept = np.sort(places)
        return Listing(self.sites, self.concepts, self.site[kept], self.number[kept], self.score[kept])

    def by_site(self) -> Iterator[tuple[str, slice]]:
        """Each site that has neurons, and where they stand."""
        for at, site in enumerate(self.sites):
            start, end = np.searchsorted(self.site, [at, at + 1]).tolist()
            if end > start:
                yield site, slice(start, end)

    def neuron_of(self, table: pa.Table, at: slice) -> Ints:
        """[n] places of a table's neurons, all of which are of the site that stands there."""
        found: Ints = at.start + np.searchsorted(self.number[at], table["neuron"].to_numpy())
        return found

    def concept_of(self, table: pa.Table, column: str = "concept") -> Ints:
        """[n] places of a table's concepts."""
        found: Ints = pc.index_in(table[column], value_set=pa.array(self.concepts)).to_numpy().astype(np.int64)
        return found


def read_site(
    file: Path, site: str, columns: Sequence[str], neurons: Ints | None = None, *, where: pc.Expression | None = None
) -> pa.Table:
    """Rows of one site, a site at a time: of a large audit a table as a whole may not fit into memory.

    Args:
        neurons: numbers of those that are asked for; None for all.
        where: what else must be true of a row.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    wanted = pc.field("site") == site
    if neurons is not None:
        wanted &= pc.field("neuron").isin(pa.array(neurons, pa.int32()))
    if where is not None:
        wanted &= where
    try:
        return pq.read_table(file, columns=[*columns], filters=wanted, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise damaged(file, error) from error
