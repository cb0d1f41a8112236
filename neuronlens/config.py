"""params.yaml as typed, frozen values. This is the one place that reads parameters.

A configuration is put together from, later ones winning: the defaults of the preset, the file, the preset asked for on the command line,
single values asked for on the command line. A preset from the command line therefore really changes what is run, even where the file
spells values out; a preset named in the file only sets what the file leaves open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from neuronlens.errors import ConfigError, did_you_mean

T = TypeVar("T")

Preset = Literal["official", "audited"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Pooling = Literal["auto", "first", "last", "mean", "max"]
Saliency = Literal["mean_abs", "mean", "probeless", "d_prime", "auroc", "probe", "separation", "random"]
RangeKind = Literal["gaussian", "quantile", "discriminative", "full"]
Gate = Literal["none", "agreement"]
Control = Literal["random_neurons", "random_ranges", "other_concept", "leace"]
Positions = Literal["all", "last", "pooled", "prompt", "generated"]
Scoring = Literal["constrained", "labels", "free", "generate"]
# name -> whether it takes a number behind a colon: "no", "may" or "must"
OPERATORS = {
    "zero": "no",
    "mean": "no",
    "complement_mean": "no",
    "clamp": "no",
    "transport": "no",
    "dampen": "may",
    "scale": "must",
    "steer": "must",
}

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
            "tuned": None,
        },
    },
    # the reference's rows; beside them contrastive ranking, other doses, controls, and the tuned method
    "audited": {
        "fit": {"rows": "correct", "saliency": ["mean_abs", "d_prime"]},
        "interventions": {
            "ranges": ["gaussian", "full"],
            "tau": [2.0, 2.5],
            "top": [0.1, 0.3, 0.6, 1.0],
            "operators": ["zero"],
            "positions": "all",
            "controls": ["random_neurons", "random_ranges", "other_concept", "leace"],
            # gated ranges that move activations towards the other concepts' mean and beyond; docs/method.md says why
            "tuned": {
                "ranges": ["gaussian", "discriminative"],
                "tau": [2.0],
                "threshold": [1.0, 2.0],
                "saliency": ["separation"],
                "top": [0.3, 0.6],
                "gate": ["agreement"],
                "operators": ["steer:-0.5", "steer:-1", "steer:-2"],
            },
        },
    },
}


Tau = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


# a factor that may be left out stands for less of the same, so it has no sign
_NUMBERS = {"may": r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)", "must": r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"}


def _known_operator(value: str) -> str:
    name, colon, argument = value.partition(":")
    if name not in OPERATORS:
        raise ValueError(f"unknown operator {name!r}. {did_you_mean(name, tuple(OPERATORS))}")
    takes = OPERATORS[name]
    if takes == "no" and colon:
        raise ValueError(f"{value!r}: {name} takes no number")
    number = takes != "no" and re.fullmatch(_NUMBERS[takes], argument) and math.isfinite(float(argument))
    if (takes == "must" or colon) and not number:
        raise ValueError(f"{value!r}: {name} needs a number, such as {name}:0.5")
    return value


def _operator_pattern() -> str:
    with_number = {"no": "", "may": f"(?::{_NUMBERS['may']})?", "must": f":{_NUMBERS['must']}"}
    return f"^(?:{'|'.join(name + with_number[takes] for name, takes in OPERATORS.items())})$"


Operator = Annotated[str, AfterValidator(_known_operator), Field(json_schema_extra={"pattern": _operator_pattern()})]


def _auto_or_count(value: Any) -> Any:
    if value == "auto":
        return value
    try:
        return _COUNT.validate_python(value)
    except ValidationError:
        raise ValueError("must be auto or a whole number of at least 1") from None


_COUNT = TypeAdapter(PositiveInt)
BatchTokens = Annotated[
    Literal["auto"] | int, PlainValidator(_auto_or_count, json_schema_input_type=Literal["auto"] | PositiveInt)
]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("needs at least one value")
    return _unique(values)


@dataclass(frozen=True)
class _ValueOrList:
    """Says in the JSON schema what `_as_list` does: a single value stands for a list of one."""

    least: int = 0

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        values = handler(core)
        return {"anyOf": [values["items"], {**values, "minItems": self.least}]}


Sweep = Annotated[tuple[T, ...], BeforeValidator(_as_list), AfterValidator(_some), _ValueOrList(least=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class CheckpointParams(_Section):
    """Which model."""

    path: str = Field(default="", description="folder of a checkpoint, or hub id (owner/name)")
    revision: str | None = Field(default=None, description="hub revision: a branch, a tag or a commit")
    dtype: Dtype = Field(default="auto", description="auto: as stored; float32, bfloat16, float16")


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
        default=None,
        description='language models: template around a row, such as "{text} Topic:"; the label is what follows',
        json_schema_extra={"pattern": r"^(?:(?!\{text\})[\s\S])*\{text\}(?:(?!\{text\})[\s\S])*$"},
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
    batch_tokens: BatchTokens = Field(
        default="auto", description="tokens of a batch, padding included; auto: what suits the device"
    )


class FitParams(_Section):
    """How neurons are ranked."""

    rows: Literal["correct", "all"] = Field(default="correct", description="rows of the fit split that count")
    saliency: Sweep[Saliency] = Field(default=("mean_abs", "d_prime"), description="how neurons are ranked")
    minimum_rows: int = Field(default=30, ge=2, description="fewer rows of a concept raise a warning on the report")


class TunedParams(_Section):
    """Candidates of the tuned method. Which of them edits a concept at a site is decided on the validation rows; lists are sweeps."""

    ranges: Sweep[RangeKind] = Field(default=("gaussian", "discriminative"), description="kinds of range")
    tau: Sweep[Tau] = Field(default=(2.0,), description="half-width of gaussian and quantile ranges")
    threshold: Sweep[Tau] = Field(default=(1.0, 2.0), description="density ratio of discriminative ranges")
    saliency: Sweep[Saliency] = Field(default=("separation",), description="rankings of the neurons")
    top: Sweep[Share] = Field(default=(0.3, 0.6), description="share of a site's neurons that is edited")
    gate: Sweep[Gate] = Field(
        default=("agreement",),
        description="agreement: edit a token only where the neurons together say it is the concept",
    )
    operators: Sweep[Operator] = Field(
        default=("steer:-0.5", "steer:-1", "steer:-2"), description="what happens in range"
    )


class InterventionParams(_Section):
    """What is edited; lists are sweeps."""

    ranges: Sweep[RangeKind] = Field(
        default=("gaussian", "full"),
        description="gaussian: mean +- tau * std; quantile: the same share of the concept's rows by quantiles; discriminative: where the "
        "concept is denser than everything else; full: the whole neuron",
    )
    tau: Sweep[Tau] = Field(
        default=(2.0, 2.5), description="half-width of gaussian and quantile ranges in standard deviations"
    )
    threshold: Sweep[Tau] = Field(
        default=(1.0,), description="least ratio of the concept's density to the others' in a discriminative range"
    )
    top: Sweep[Share] = Field(default=(0.1, 0.3, 0.6, 1.0), description="share of a site's neurons that is edited")
    operators: Sweep[Operator] = Field(
        default=("zero",),
        description="zero, mean, complement_mean, clamp, transport, dampen or dampen:FACTOR, scale:FACTOR, steer:ALPHA",
    )
    positions: Positions = Field(
        default="all",
        description="tokens that are edited: all, last (of the prompt), pooled (where activations are read), prompt, generated",
    )
    controls: Annotated[tuple[Control, ...], BeforeValidator(_as_list), AfterValidator(_unique), _ValueOrList()] = (
        Field(
            default=("random_neurons", "random_ranges", "other_concept", "leace"),
            description="what the ranges are held against; [] for nothing",
        )
    )
    tuned: TunedParams | None = Field(
        default=TunedParams(), description="candidates of the tuned method; null for none"
    )


class EvaluateParams(_Section):
    """How an intervention's effect is measured."""

    scoring: Scoring = Field(
        default="constrained",
        description="language models: the likeliest label (constrained), the same with probabilities among the labels alone (labels), the "
        "likeliest token (free), or whether greedy text names the label (generate)",
    )
    auxiliary: str | None = Field(
        default=None, description="ordinary text for perplexity: .txt (a document a line) or a table"
    )
    auxiliary_rows: int = Field(default=200, ge=1, description="documents used for perplexity")
    questions: str | None = Field(
        default=None, description="language models: multiple-choice questions in MMLU's format, JSON Lines"
    )
    bootstrap: int = Field(
        default=1000, ge=100, description="resamples that say how surely a matched target drop is reached"
    )


class Config(_Section):
    """Everything an audit is told."""

    preset: Preset = Field(
        default="audited", description="sets what is left open in fit and interventions; official: the published method"
    )
    checkpoint: CheckpointParams = Field(default_factory=CheckpointParams, description="which model")
    dataset: DatasetParams = Field(default_factory=DatasetParams, description="which labelled text")
    extract: ExtractParams = Field(default_factory=ExtractParams, description="where activations are read")
    fit: FitParams = Field(default_factory=FitParams, description="how neurons are ranked")
    interventions: InterventionParams = Field(
        default_factory=InterventionParams, description="what is edited; lists are sweeps"
    )
    evaluate: EvaluateParams = Field(
        default_factory=EvaluateParams, description="how an intervention's effect is measured"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="decides splits, random neurons and resamples")


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
    merged = deepcopy(merged)  # single values are written into it, and must not reach the presets
    for keys, value in sets.items():
        _assign(merged, keys, value, places[keys])
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, places, path) from None


def config_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of params.yaml, so that an editor accepts what `load_config` accepts.

    It is stricter in one thing: numbers in quotes and truth values, which `load_config` reads as numbers where one is due, are refused.
    """
    schema = Config.model_json_schema()
    for field in schema["properties"].values():
        if "$ref" in field:  # a section left empty says nothing
            field["anyOf"] = [{"$ref": field.pop("$ref")}, {"type": "null"}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "type": ["object", "null"]}


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
        annotation = model.model_fields[name].annotation
        # of a section that may be null the section
        model = next((part for part in get_args(annotation) if part is not type(None)), annotation)
    return list(model.model_fields)
