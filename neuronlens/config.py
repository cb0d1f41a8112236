"""params.yaml as typed, frozen values. This is the one place that reads parameters.

A configuration is put together from, later ones winning: the defaults of the preset, the file, the preset asked for on the command line,
single values asked for on the command line. A preset from the command line therefore really changes what is run, even where the file
spells values out; a preset named in the file only sets what the file leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from neuronlens.errors import ConfigError, did_you_mean

T = TypeVar("T")

Preset = Literal["official", "audited"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Pooling = Literal["auto", "first", "last", "mean", "max"]
Saliency = Literal["mean_abs", "d_prime", "random"]
RangeKind = Literal["gaussian", "full"]
Control = Literal["random_neurons"]
Positions = Literal["all", "last", "pooled", "prompt", "generated"]
Scoring = Literal["constrained", "free"]
OPERATORS = ("zero", "complement_mean", "dampen")

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # the reference's settings: mean |a|, 30 % of the neurons, mean +- 2 std against the whole neuron, set to zero at every position
    "official": {
        "fit": {"rows": "correct", "saliency": ["mean_abs"]},
        "interventions": {
            "ranges": ["gaussian", "full"],
            "tau": [2.0],
            "top": [0.3],
            "operators": ["zero"],
            "positions": "all",
            "controls": [],
        },
    },
    # the reference's rows, and beside them contrastive ranking, smaller doses and random neurons as control
    "audited": {
        "fit": {"rows": "correct", "saliency": ["mean_abs", "d_prime"]},
        "interventions": {
            "ranges": ["gaussian", "full"],
            "tau": [2.0, 2.5],
            "top": [0.1, 0.3],
            "operators": ["zero"],
            "positions": "all",
            "controls": ["random_neurons"],
        },
    },
}


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("needs at least one value")
    return _unique(values)


Sweep = Annotated[tuple[T, ...], BeforeValidator(_as_list), AfterValidator(_some)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class CheckpointParams(_Section):
    """Which model."""

    path: str = Field(default="", description="folder of a checkpoint, or hub id (owner/name)")
    revision: str | None = Field(default=None, description="hub revision: a branch, a tag or a commit")
    dtype: Dtype = Field(default="auto", description="auto: as stored")


class DatasetParams(_Section):
    """Which labelled text."""

    path: str = Field(default="", description="Parquet, CSV or JSON Lines file, or hub:owner/name")
    text: str = Field(default="text", description="column with the text")
    label: str = Field(default="label", description="column with the concept")
    split: str = Field(
        default="split", description="column with train / fit, validation, test; made where the data has none"
    )
    max_tokens: int = Field(default=128, ge=4, description="longer texts are cut, a prompt template never is")
    prompt: str | None = Field(
        default=None, description='language models: template around a row, such as "{text} Topic:"'
    )
    labels: dict[str, str] | None = Field(
        default=None, description="concept -> text of its label (language models) or name of its class (classifiers)"
    )

    @field_validator("prompt")
    @classmethod
    def _names_the_text(cls, value: str | None) -> str | None:
        if value is not None and value.count("{text}") != 1:
            raise ValueError("must contain {text} exactly once")
        return value


class ExtractParams(_Section):
    """Where activations are read."""

    sites: Sweep[str] = Field(
        default=("resid_post.last",), description="component.layer; layer: a number counted from 0, last, middle or all"
    )
    pooling: Pooling = Field(default="auto", description="auto: last token of decoders, first token of encoders")
    batch_tokens: int = Field(default=8192, ge=1, description="tokens of a batch, padding included")


class FitParams(_Section):
    """How neurons are ranked."""

    rows: Literal["correct", "all"] = Field(default="correct", description="rows of the fit split that count")
    saliency: Sweep[Saliency] = (
        "mean_abs",
        "d_prime",
    )
    minimum_rows: int = Field(default=30, ge=2, description="fewer rows of a concept raise a warning on the report")


class InterventionParams(_Section):
    """What is edited; lists are sweeps."""

    ranges: Sweep[RangeKind] = ("gaussian", "full")
    tau: Sweep[Annotated[float, Field(gt=0)]] = Field(
        default=(2.0, 2.5), description="half-width of a gaussian range in standard deviations"
    )
    top: Sweep[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=(0.1, 0.3), description="share of a site's neurons that is edited"
    )
    operators: Sweep[str] = Field(default=("zero",), description="zero, complement_mean, dampen or dampen:FACTOR")
    positions: Positions = "all"
    controls: Annotated[tuple[Control, ...], BeforeValidator(_as_list), AfterValidator(_unique)] = ("random_neurons",)

    @field_validator("operators")
    @classmethod
    def _known_operators(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            name, _, argument = value.partition(":")
            if name not in OPERATORS:
                raise ValueError(f"unknown operator {name!r}. {did_you_mean(name, OPERATORS)}")
            if argument and (name != "dampen" or not re.fullmatch(r"\d*\.?\d+", argument)):
                raise ValueError(f"{value!r}: only dampen takes a factor, a number such as dampen:0.125")
        return values


class EvaluateParams(_Section):
    """How an intervention's effect is measured."""

    scoring: Scoring = Field(
        default="constrained", description="language models: argmax among the labels, or over the vocabulary"
    )
    auxiliary: str | None = Field(
        default=None, description="ordinary text for perplexity: .txt (a document a line) or a table"
    )
    auxiliary_rows: int = Field(default=200, ge=1, description="documents used for perplexity")
    bootstrap: int = Field(default=1000, ge=100, description="resamples behind an interval")


class Config(_Section):
    """Everything an audit is told."""

    preset: Preset = "audited"
    checkpoint: CheckpointParams = CheckpointParams()
    dataset: DatasetParams = DatasetParams()
    extract: ExtractParams = ExtractParams()
    fit: FitParams = FitParams()
    interventions: InterventionParams = InterventionParams()
    evaluate: EvaluateParams = EvaluateParams()
    seed: int = Field(default=0, ge=0, lt=2**32)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a file and of `a.b=value` overrides (values are YAML).

    Raises:
        ConfigError: names the file and line, or the override, and the cure.
    """
    given, places = _read(path) if path else ({}, {})
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
    for keys, value in sets.items():
        _assign(merged, keys, value, places[keys])
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, places, path) from None


def parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value` as (("a", "b"), value)."""
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
            "the value is no YAML", where=f"--set {override}", cure="Lists look like [2.0, 2.5]."
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

    def walk(node: yaml.Node | None, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if isinstance(node, yaml.MappingNode):
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
    return ConfigError(f"{dotted}: {message[:1].lower()}{message[1:]}{shown}", where=where)


def _known_keys(parents: tuple[str, ...]) -> list[str]:
    model: Any = Config
    for name in parents:
        model = model.model_fields[name].annotation
    return list(model.model_fields)
