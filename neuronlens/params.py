"""Reading params.yaml, and single values from the command line. This is the one place that reads parameters.

A configuration is put together from, later ones winning: the defaults of the preset, the file, the preset asked for on the command line,
single values asked for on the command line. A preset from the command line therefore really changes what is run, even where the file
spells values out; a preset named in the file only sets what the file leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from neuronlens.config import Config
from neuronlens.errors import ConfigError, did_you_mean
from neuronlens.presets import PRESETS
from neuronlens.values import Preset

AUDITED = "audited"  # what audit.yaml adds to a params.yaml: identities of what the audit is of

_QUOTED = "Text that YAML would read as something else stands in quotes"


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a file and of `a.b=value` overrides (values are YAML).

    Raises:
        ConfigError: names the file and line, or the override, and the cure.
    """
    given, places = _read(path) if path else ({}, {})
    given.pop(AUDITED, None)
    sets: dict[tuple[str, ...], Any] = {}
    for override in overrides:
        keys, value = parse_override(override)
        sets[keys] = value
        for depth in range(len(keys), 0, -1):
            places[keys[:depth]] = (
                f"--set {override}" if depth == len(keys) else places.get(keys[:depth], f"--set {override}")
            )

    asked = sets.get(("preset",))
    preset = asked if asked is not None else given.get("preset", "audited")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(
            f"unknown preset {preset!r}",
            where=places.get(("preset",)),
            cure=did_you_mean(str(preset), get_args(Preset)),
        )
    merged = _merge(PRESETS[preset], given)
    if asked is not None:
        merged = _merge(merged, PRESETS[preset])
    merged = deepcopy(merged)  # single values are written into it, and must not reach the presets
    for keys, value in sets.items():
        _assign(merged, keys, value, places[keys])
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, places, path) from None


def read_audited(path: Path) -> dict[str, Any] | None:
    """What the audit.yaml of an audit says it is of: the section `audited`; None where a file has none.

    Raises:
        ConfigError: the file cannot be read.
    """
    found = _read(path)[0].get(AUDITED)
    return found if isinstance(found, dict) else None


def parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value` as (("a", "b"), value).

    Raises:
        ConfigError: it is no assignment, or the value is no YAML.
    """
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(
            "is no assignment",
            where=f"--set {override}",
            cure="Write it as section.key=value, such as interventions.tau=2.5.",
        )
    try:
        return tuple(name.strip().split(".")), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # PyYAML lets int() and date() speak for themselves
        raise ConfigError(
            "the value is no YAML",
            where=f"--set {override}",
            cure=f"Lists look like [2.0, 2.5]. {_QUOTED}, as in --set 'dataset.prompt=\"{{text}} Topic:\"'.",
        ) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The values of a file, and file:line of each key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), cure="Name an existing file with --params.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path), cure="It must be a UTF-8 text file.") from None
    try:
        value = yaml.safe_load(text)
        places = dict(_lines(text, path))  # a mapping that contains itself has no end
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"is no YAML ({problem})", where=f"{path}{line}", cure="Check the indentation and quotes there."
        ) from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigError("holds no sections", where=str(path), cure="It must be a mapping, as params.yaml is.")
    return {str(key): part for key, part in value.items()}, places


def _lines(text: str, path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key path, file:line) of every key."""

    seen: set[int] = set()  # what is named again and again would take forever to spell out

    def walk(node: yaml.Node | None, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if isinstance(node, yaml.MappingNode) and id(node) not in seen:
            seen.add(id(node))
            for key, value in node.value:
                inner = (*keys, str(key.value))
                yield inner, f"{path}:{key.start_mark.line + 1}"
                yield from walk(value, inner)

    yield from walk(yaml.compose(text, Loader=yaml.SafeLoader), ())


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, section by section. A section left empty in YAML (None) says nothing."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in under.items()}
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = {**merged[key], **value}
        elif value is not None or key not in merged:
            merged[key] = dict(value) if isinstance(value, dict) else value
    return {key: ({} if value is None and key in Config.model_fields else value) for key, value in merged.items()}


def _assign(config: dict[str, Any], keys: tuple[str, ...], value: Any, where: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        inner = config.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{'.'.join(keys[: depth + 1])} is a value, not a section", where=where, cure="Set it as a whole."
            )
        config = inner
    config[keys[-1]] = value


def _explain(error: ValidationError, places: Mapping[tuple[str, ...], str], path: Path | None) -> ConfigError:
    """The first problem as one line: where it stands, what it is, what would be right."""
    problem = error.errors(include_url=False)[0]
    names = tuple(part for part in problem["loc"] if isinstance(part, str))
    where = next(
        (places[names[:depth]] for depth in range(len(names), 0, -1) if names[:depth] in places),
        str(path or "configuration"),
    )
    dotted = ".".join(names)
    if problem["type"] == "extra_forbidden":
        return ConfigError(
            f"unknown key {dotted!r}", where=where, cure=did_you_mean(names[-1], _known_keys(names[:-1]))
        )
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(problem["input"], (dict, list, tuple)) else f" (got {problem['input']!r})"
    cure = f"{_QUOTED}." if problem["type"] == "string_type" and problem["input"] is not None else None
    return ConfigError(f"{dotted}: {message[:1].lower()}{message[1:]}{shown}", where=where, cure=cure)


def _known_keys(parents: tuple[str, ...]) -> list[str]:
    model: Any = Config
    for name in parents:
        annotation = model.model_fields[name].annotation
        # of a section that may be null the section
        model = next((part for part in get_args(annotation) if part is not type(None)), annotation)
    return list(model.model_fields)
