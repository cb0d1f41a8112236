"""The values that parameters take: names that there are, operators with their numbers, counts, and lists that are sweeps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from neuronlens.errors import did_you_mean

T = TypeVar("T")

Preset = Literal["official", "audited"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Pooling = Literal["auto", "first", "last", "mean", "max"]
Saliency = Literal["mean_abs", "mean", "probeless", "d_prime", "auroc", "probe", "separation", "random"]
RangeKind = Literal["gaussian", "quantile", "discriminative", "full"]
# kind -> the parameter that says how wide a range is, None where nothing does
WIDTHS: Mapping[str, Literal["tau", "threshold"] | None] = {
    "gaussian": "tau",
    "quantile": "tau",
    "discriminative": "threshold",
    "full": None,
}
Gate = Literal["none", "agreement"]
Control = Literal["random_neurons", "random_ranges", "other_concept", "leace"]
Positions = Literal["all", "last", "pooled", "prompt", "generated"]
Runner = Literal["threads", "processes", "dask"]
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

Tau = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Several = Annotated[int, Field(ge=2)]


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


KeepRows = Literal["auto"] | Annotated[bool, Field(strict=True)]

_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = rf"^\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*({'|'.join(_UNITS)})\s*$"


def _byte_count(value: Any) -> Any:
    found = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
    if found is not None:
        value = int(float(found[1]) * _UNITS[found[2]])
    try:
        return _COUNT.validate_python(value)
    except ValidationError:
        raise ValueError('must be a size such as "20 GB", or a number of bytes') from None


Bytes = Annotated[
    int, PlainValidator(_byte_count, json_schema_input_type=PositiveInt | Annotated[str, Field(pattern=_SIZE)])
]


def as_list(value: Any) -> Any:
    """A single value as a list of one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each value once, in the order of its first appearance."""
    return tuple(dict.fromkeys(values))


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("needs at least one value")
    return unique(values)


@dataclass(frozen=True)
class ValueOrList:
    """Says in the JSON schema what `as_list` does: a single value stands for a list of one."""

    least: int = 0

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        values = handler(core)
        return {"anyOf": [values["items"], {**values, "minItems": self.least}]}


Sweep = Annotated[tuple[T, ...], BeforeValidator(as_list), AfterValidator(_some), ValueOrList(least=1)]
