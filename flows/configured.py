"""The configuration of a run, of a file, what has a name of its own, and single values: alike from a command line and from a form."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from neuronlens.config import Config, GateParams
from neuronlens.params import load_config

PARAMS = "params.yaml"


def config_of(
    params: Path | None, overrides: Sequence[str] | None, named: Mapping[str, str | None] | None = None
) -> Config:
    """The configuration that these make together, later ones winning.

    Args:
        params: the file; params.yaml of the current folder where None and there is one.
        overrides: `section.key=value`, values as YAML.
        named: key -> a string, never YAML; None where it was not given.

    Raises:
        ConfigError: see `neuronlens.params.load_config`.
    """
    default = Path(PARAMS)
    given = {key: value for key, value in (named or {}).items() if value is not None}
    sets = [f"{key}={_quoted(value)}" for key, value in given.items()]
    if "checkpoint.path" in given:
        sets.append("checkpoint.revision=null")  # the file's revision is one of the file's checkpoint
    return load_config(params or (default if default.is_file() else None), [*sets, *(overrides or [])])


def gates_of(own: Config, params: Path | None = None) -> Mapping[str, GateParams]:
    """The gates that an audit is judged by: those of the file, of params.yaml in the current folder, or else its own.

    Args:
        own: configuration of the audit.
        params: the file.

    Raises:
        ConfigError: see `neuronlens.params.load_config`.
    """
    return own.gates if params is None and not Path(PARAMS).is_file() else config_of(params, None).gates


def _quoted(text: str) -> str:
    """A string as YAML that is read back as that string, whatever it looks like."""
    return yaml.safe_dump(text, default_style='"', width=sys.maxsize).strip()
