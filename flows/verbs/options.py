"""What several verbs take, and the configuration that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from neuronlens.config import Config

Rest = ParamSpec("Rest")
Result = TypeVar("Result")

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
Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder of the audit; audits/ID unless told otherwise.")
]
NoFlow = Annotated[bool, typer.Option("--no-flow", help="Run without Prefect's engine.")]
Audit = Annotated[Path, typer.Argument(metavar="AUDIT", help="Its folder.")]
Audits = Annotated[
    list[Path] | None, typer.Argument(metavar="[AUDIT]...", help="Folders; all of the workspace unless told otherwise.")
]
Remote = Annotated[
    str | None,
    typer.Option(
        "--remote", metavar="NAME|URL", help="A DVC remote, or its address; the default one unless told otherwise."
    ),
]


@dataclass(frozen=True)
class Asked:
    """The options that make the configuration of an audit."""

    checkpoint: Checkpoint = None
    dataset: Dataset = None
    text: Text = None
    label: Label = None
    split: Split = None
    params: Params = None
    overrides: Overrides = None

    def config(self) -> Config:
        """The configuration."""
        given = {
            "checkpoint.path": self.checkpoint,
            "dataset.path": self.dataset,
            "dataset.text": self.text,
            "dataset.label": self.label,
            "dataset.split": self.split,
        }
        return configured(self.params, self.overrides, given)


def asking(verb: Callable[Concatenate[Asked, Rest], Result]) -> Callable[..., Result]:
    """A verb that takes the options of `Asked`, before its own ones; they reach it together, as its first argument."""
    hints = get_type_hints(verb, include_extras=True)
    asked = get_type_hints(Asked, include_extras=True)
    options = [
        Parameter(each.name, Parameter.POSITIONAL_OR_KEYWORD, default=each.default, annotation=asked[each.name])
        for each in fields(Asked)
    ]
    own = [each.replace(annotation=hints[each.name]) for each in signature(verb).parameters.values()][1:]
    called: Callable[..., Result] = verb

    @wraps(verb)
    def run(**given: Any) -> Result:
        return called(Asked(**{name: given.pop(name) for name in asked}), **given)

    run.__signature__ = Signature([*options, *own])  # type: ignore[attr-defined]  # typer reads it; no function type has it
    run.__annotations__ = {each.name: each.annotation for each in (*options, *own)}
    return run


def configured(
    params: Path | None, overrides: Sequence[str] | None, given: Mapping[str, str | None] | None = None
) -> Config:
    """See `flows.configured.config_of`, which takes a while to import."""
    from flows.configured import config_of

    return config_of(params, overrides, given)
