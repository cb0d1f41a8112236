"""What programs read: strict JSON on stdout, and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from neuronlens.artifact import finite, indented_json

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
AsAuditJson = Annotated[bool, typer.Option("--json", help="Print audit.json and nothing else on stdout.")]
Value = TypeVar("Value")


def tell(value: Value, show: Callable[[Value], object], *, as_json: bool) -> None:
    """Print what a verb has found, for programs or for people.

    Args:
        show: prints it for people.
    """
    if as_json:
        print_json(value)
    else:
        show(value)


def print_json(value: Any) -> None:
    """Print a value as UTF-8, whatever the terminal's own encoding; what is not finite is null, as JSON knows no NaN."""
    typer.echo(indented_json(finite(_plain(value))).encode(), nl=False)


def _plain(value: Any) -> Any:
    """A value without dataclasses and paths."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
