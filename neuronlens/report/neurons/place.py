"""Neurons as people write them, such as `resid_post.3:117`, and what a table of the fit says of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuronlens.artifact import damaged
from neuronlens.errors import SiteError, did_you_mean

Row = Mapping[str, Any]


def parse_place(text: str) -> tuple[str, int]:
    """Site and neuron of a text such as `resid_post.3:117`.

    Raises:
        SiteError: it names none.
    """
    site, colon, neuron = text.rpartition(":")
    if not colon or not site or not (neuron.isascii() and neuron.isdigit()):
        raise SiteError(f"{text!r} names no neuron", cure="Write it as SITE:NEURON, such as resid_post.3:117.")
    return site, int(neuron)


def check_place(document: Row, site: str, neuron: int) -> Row:
    """What audit.json says of a site: `site`, `module`, `neurons`.

    Raises:
        SiteError: it has no such site, or the site no such neuron.
    """
    known = {entry["site"]: entry for entry in document["sites"]}
    if site not in known:
        raise SiteError(f"site {site!r} was not audited", cure=did_you_mean(site, known))
    own: Row = known[site]
    if not 0 <= neuron < own["neurons"]:
        raise SiteError(f"site {site} has no neuron {neuron}", cure=f"Its neurons are 0 to {own['neurons'] - 1}.")
    return own


def rows_at(file: Path, columns: Sequence[str] | None, site: str, neuron: int | None = None) -> list[dict[str, Any]]:
    """Rows of a table of the fit that are of a site, or of one neuron. Whatever else it holds is not decoded."""
    table = table_at(file, columns, site, neuron)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def table_at(file: Path, columns: Sequence[str] | None, site: str, neuron: int | None = None) -> pa.Table:
    """The same as an Arrow table.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    wanted = pc.field("site") == site
    if neuron is not None:
        wanted &= pc.field("neuron") == neuron
    try:
        return pq.read_table(file, columns=columns and [*columns], filters=wanted, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise damaged(file, error) from error
