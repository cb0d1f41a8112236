"""Audits as they are stored, and whether two of them speak of the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuronlens.activations.store import Activations, read_activations
from neuronlens.artifact import content_hash, read_manifest, read_table
from neuronlens.errors import UserError
from neuronlens.sites import Site

NEEDED = ("prepare", "extract", "fit", "evaluate")
_NAMES = ("row", "text", "concept", "split")


@dataclass(frozen=True)
class StoredAudit:
    """The artifacts of an audit, read when they are asked for.

    Attributes:
        name: what it is called.
        folders: of its stages.
    """

    name: str
    folders: Mapping[str, Path]

    @classmethod
    def open(cls, folder: Path) -> StoredAudit:
        """The audit in a folder.

        Raises:
            UserError: it holds none, or one that is not finished.
        """
        missing = [name for name in NEEDED if not (folder / name / "manifest.json").is_file()]
        if missing:
            raise UserError(
                f"holds no finished audit: {', '.join(missing)} missing",
                where=str(folder),
                cure="Name the folder of one, such as audits/ID; neuronlens pull brings one that was made elsewhere.",
            )
        return cls(folder.resolve().name, {name: folder / name for name in NEEDED})

    @cached_property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Stage -> what it found worth telling."""
        return {name: read_manifest(self.folders[name])["facts"] for name in NEEDED}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of the libraries that measured it."""
        found: dict[str, str] = read_manifest(self.folders["evaluate"])["versions"]
        return found

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Stage -> identity of what it wrote."""
        return {name: content_hash(self.folders[name]) for name in NEEDED}

    @cached_property
    def dataset(self) -> pa.Table:
        """Row, text, concept and split, in order of rows."""
        return read_table(self.folders["prepare"] / "dataset.parquet", list(_NAMES)).sort_by("row")

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted(set(self.dataset["concept"].to_pylist())))

    @cached_property
    def truth(self) -> npt.NDArray[np.int64]:
        """[N] place of each row's concept in `concepts`, in order of rows."""
        places = {name: place for place, name in enumerate(self.concepts)}
        return np.array([places[name] for name in self.dataset["concept"].to_pylist()], dtype=np.int64)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """That were read, in order."""
        return tuple(sorted(Site.parse(name) for name in self.facts["extract"]["sites"]))

    @property
    def keeps_rows(self) -> bool:
        """Whether the activations of single rows are there; audits of former versions always have them."""
        return bool(self.facts["extract"].get("keep_rows", True))

    @cached_property
    def unedited(self) -> pa.Table:
        """What the unedited model said of each row, in order of rows."""
        return read_table(self.folders["extract"] / "rows.parquet", ["row", "correct", "confidence"]).sort_by("row")

    def table(self, name: str) -> pa.Table | None:
        """A table of the stages `fit` or `evaluate`; None where this audit has none of that name."""
        for stage in ("fit", "evaluate"):
            file = self.folders[stage] / f"{name}.parquet"
            if file.exists():
                return read_table(file)
        return None

    def edited(self, site: Site) -> pa.Table:
        """What each test row did under each method of a site."""
        columns = ["concept", "role", "method", "row", "correct", "confidence"]
        return read_table(self.folders["evaluate"] / "rows" / f"site={site}.parquet", columns)

    def documents(self, site: Site) -> pa.Table | None:
        """What each document cost under each method of a site; None where no ordinary text was given."""
        file = self.folders["evaluate"] / "documents" / f"site={site}.parquet"
        return read_table(file) if file.exists() else None

    @cached_property
    def chosen(self) -> list[dict[str, Any]]:
        """What the validation rows chose, in the words of results.parquet; nothing where nothing was tuned."""
        table = self.table("chosen")
        return [] if table is None else table.select(["site", "concept", "method", "setting"]).to_pylist()

    def activations(self, site: Site) -> Activations:
        """Pooled activations of a site."""
        return read_activations(self.folders["extract"], self.dataset, [site])

    def split(self, name: str) -> npt.NDArray[np.bool_]:
        """[N] which rows are of a split."""
        return np.array([own == name for own in self.dataset["split"].to_pylist()])


def check_comparable(a: StoredAudit, b: StoredAudit) -> tuple[Site, ...]:
    """Sites that two audits of the same rows share.

    Raises:
        UserError: their rows differ, or they share no site.
    """
    if not a.dataset.equals(b.dataset):
        counts = [f"{len(audit.dataset):,} rows of {audit.facts['prepare']['dataset']['name']}" for audit in (a, b)]
        raise UserError(
            f"audits of different rows cannot be compared: {counts[0]}, {counts[1]}",
            where=f"{a.name} and {b.name}",
            cure="Audit both checkpoints on the same data with the same split and seed.",
        )
    shared = tuple(site for site in a.sites if site in b.sites)
    if not shared:
        told = ["/".join(map(str, audit.sites)) for audit in (a, b)]
        raise UserError(
            f"audits that share no site cannot be compared: {told[0]} and {told[1]}",
            where=f"{a.name} and {b.name}",
            cure="Audit both at one site: --set extract.sites=resid_post.last names one in each.",
        )
    return shared
