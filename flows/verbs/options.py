"""What several verbs take, and the configuration that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from neuronlens.config import Config

Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="PATH|HUB_ID[@REV]", help="Folder of a checkpoint, or its hub id."),
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", metavar="FILE|hub:ID", help="Labelled text: Parquet, CSV, JSON Lines, or a hub id."),
]
Text = Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="Column with the text.")]
Label = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Column with the concept.")]
Split = Annotated[str | None, typer.Option("--split", metavar="COLUMN", help="Column with the split.")]
Params = Annotated[
    Path | None, typer.Option("--params", metavar="FILE", help="Parameters; ./params.yaml where there is one.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="One parameter, such as interventions.tau=[2.0,2.5]; repeatable."
    ),
]
Audits = Annotated[
    list[Path] | None, typer.Argument(metavar="[AUDIT]...", help="Folders; all of the workspace unless told otherwise.")
]
Remote = Annotated[
    str | None,
    typer.Option(
        "--remote", metavar="NAME|URL", help="A DVC remote, or its address; the default one unless told otherwise."
    ),
]


def flags(
    checkpoint: str | None, dataset: str | None, text: str | None, label: str | None, split: str | None
) -> dict[str, str | None]:
    """Key -> what was given for it."""
    return {
        "checkpoint.path": checkpoint,
        "dataset.path": dataset,
        "dataset.text": text,
        "dataset.label": label,
        "dataset.split": split,
    }


def configured(
    params: Path | None, overrides: Sequence[str] | None, given: Mapping[str, str | None] | None = None
) -> Config:
    """See `flows.configured.config_of`, which takes a while to import."""
    from flows.configured import config_of

    return config_of(params, overrides, given)
