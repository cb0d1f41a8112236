"""The file of a lens: safetensors, with one JSON document as its metadata. Whatever comes in is checked before it is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neuronlens.artifact import canonical_json, write_whole
from neuronlens.errors import LensError, SiteError, printable
from neuronlens.interventions.kinds import Intervention, LinearErasure
from neuronlens.interventions.operators import LOOKED_AT, Target, parse_operator
from neuronlens.sites import Site
from neuronlens.values import Operator, Pooling, Positions

FORMAT = 1
# one key: safetensors writes several in any order, and equal lenses shall give equal bytes
_KEY = "neuronlens.lens"
_MOST_BYTES = 1 << 30
_NUMBERS = ("mean", "std", "complement_mean", "complement_std", "pooled_mean")
_GATE = ("evidence", "threshold")
_ERASURE = ("direction", "probe", "mean")

Name = Annotated[str, Field(max_length=1 << 14)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, Field(max_length=1 << 10, pattern=r"^[A-Za-z0-9._-]*$")]
Value = str | int | float | bool | None
SiteEdit = Intervention | LinearErasure
Tensors = Mapping[str, torch.Tensor]


class _Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Part(_Strict):
    """The edit of one site, but for its tensors.

    Attributes:
        width: neurons that the site has.
        gated: whether neurons have to agree.
        operator: None for an erasure.
        params: what results.parquet says of the method.
    """

    kind: Literal["ranges", "erasure"]
    site: Annotated[str, Field(max_length=64)]
    width: Annotated[int, Field(ge=1, le=1 << 24)]
    operator: Annotated[Operator, Field(max_length=64)] | None
    positions: Positions
    pooling: Pooling
    gated: bool
    params: Annotated[
        dict[Annotated[str, Field(max_length=64)], Name | int | float | bool | None], Field(max_length=64)
    ]

    @classmethod
    def of(cls, item: SiteEdit, width: int, params: Mapping[str, Value]) -> tuple[Part, dict[str, torch.Tensor]]:
        """An edit as it is written."""
        common: dict[str, Any] = {
            "site": str(item.site),
            "width": width,
            "positions": item.positions,
            "pooling": item.pooling,
            "params": dict(params),
        }
        if isinstance(item, LinearErasure):
            tensors = {name: getattr(item, name) for name in _ERASURE}
            return cls(kind="erasure", operator=None, gated=False, **common), tensors
        tensors = {name: getattr(item, name) for name in ("neurons", "lower", "upper")}
        tensors |= {name: getattr(item.target, name) for name in _NUMBERS}
        if item.evidence is not None and item.threshold is not None:
            tensors |= {"evidence": item.evidence, "threshold": item.threshold}
        return cls(kind="ranges", operator=item.operator, gated="evidence" in tensors, **common), tensors

    @property
    def names(self) -> tuple[str, ...]:
        """Of its tensors."""
        if self.kind == "erasure":
            return _ERASURE
        return ("neurons", "lower", "upper", *_NUMBERS, *(_GATE if self.gated else ()))

    def edit(self, tensors: Tensors) -> SiteEdit:
        """What is done to the model, from tensors that have been checked."""
        site = Site.parse(self.site)
        if self.kind == "erasure":
            return LinearErasure(
                site, **{name: tensors[name] for name in _ERASURE}, positions=self.positions, pooling=self.pooling
            )
        lower, upper = tensors["lower"], tensors["upper"]
        target = Target(lower[:, 0], upper[:, 0], *(tensors[name] for name in _NUMBERS))
        gate = (tensors.get(name) for name in _GATE)
        return Intervention(
            site, tensors["neurons"], lower, upper, target, str(self.operator), self.positions, self.pooling, *gate
        )

    def check(self, tensors: Tensors) -> None:
        """Refuse what is no edit.

        Raises:
            LensError: types, shapes or numbers are not what they have to be.
            SiteError: there is no such site.
        """
        Site.parse(self.site)
        if self.kind == "erasure":
            _expect(self.operator is None and not self.gated, "an erasure has no operator and no gate")
            for name in _ERASURE:
                self._is(tensors, name, torch.float32, self.width)
                _expect(bool(tensors[name].isfinite().all()), f"{name} is not finite")
            return
        _expect(self.operator is not None, "ranges have an operator")
        neurons, lower, upper = (tensors[name] for name in ("neurons", "lower", "upper"))
        count = neurons.shape[0] if neurons.dim() == 1 else 0
        intervals = lower.shape[1] if lower.dim() == 2 else 0
        _expect(0 < count <= self.width, f"{count} neurons of {self.width}")
        _expect(intervals > 0, "no intervals")
        self._is(tensors, "neurons", torch.int64, count)
        _expect(bool(((neurons >= 0) & (neurons < self.width)).all()), f"neurons beyond the {self.width} of the site")
        _expect(len(neurons.unique()) == count, "a neuron is named twice")
        for name in ("lower", "upper"):
            self._is(tensors, name, torch.float32, count, intervals)
        empty = (lower == torch.inf) & (upper == -torch.inf)  # of a neuron with fewer intervals than others
        _expect(bool(((lower <= upper) | empty).all()), "a range ends before it begins")
        for name in _NUMBERS:
            self._is(tensors, name, torch.float32, count)
        for name in LOOKED_AT.get(parse_operator(str(self.operator))[0], ()):
            _expect(bool(tensors[name].isfinite().all()), f"{name} is not finite")
        if self.gated:
            sums = tensors["threshold"].shape[0] if tensors["threshold"].dim() == 1 else 0
            _expect(sums > 0, "a gate without a threshold")
            self._is(tensors, "threshold", torch.float32, sums)
            self._is(tensors, "evidence", torch.float32, 2, sums, count)
            _expect(all(bool(tensors[name].isfinite().all()) for name in _GATE), "the gate is not finite")

    def _is(self, tensors: Tensors, name: str, dtype: torch.dtype, *shape: int) -> None:
        found = tensors[name]
        _expect(
            found.dtype == dtype and tuple(found.shape) == shape,
            f"{name} at {self.site} is {found.dtype} {list(found.shape)}, not {dtype} {list(shape)}",
        )


class _Format(BaseModel):
    """What every version of the format says."""

    format: Annotated[int, Field(strict=True)]


class Header(_Strict):
    """What a file says beside its tensors; see `neuronlens.interventions.lens.Lens`."""

    format: Literal[1] = 1
    concept: Name
    method: Name
    checkpoint: Slug
    fingerprint: Digest
    model_type: Slug
    parts: Annotated[tuple[Part, ...], Field(min_length=1, max_length=4096)]
    audit: Annotated[dict[Annotated[str, Field(max_length=64)], Digest], Field(max_length=64)]
    neuronlens: Name


def pack(path: Path, header: Header, tensors: Sequence[Tensors]) -> None:
    """Write a lens; the file appears whole or not at all.

    Raises:
        LensError: it would be refused when it is read, or would take the place of what is no lens.
    """
    from safetensors.torch import save

    _check(header, tensors)
    if path.exists():
        try:
            _read(path)
        except LensError as error:
            raise LensError(
                f"is there already, and {error.what}", where=str(path), cure="Name another file with -o."
            ) from None
    content = save(
        {
            f"{place}.{name}": tensor.detach().cpu().contiguous().clone()
            for place, part in enumerate(tensors)
            for name, tensor in part.items()
        },
        {_KEY: canonical_json(header.model_dump(mode="json"))},
    )
    write_whole(path, content)


def unpack(path: Path) -> tuple[Header, list[dict[str, torch.Tensor]]]:
    """What `pack` wrote.

    Returns:
        The header, and the tensors of each of its parts.

    Raises:
        LensError: the file is no lens, damaged, or of a newer NeuronLens.
    """
    header, found = _read(path)
    expected = {f"{place}.{name}" for place, part in enumerate(header.parts) for name in part.names}
    try:
        _expect(set(found) == expected, "its tensors are not those that its header speaks of")
        tensors = [{name: found[f"{place}.{name}"] for name in part.names} for place, part in enumerate(header.parts)]
        _check(header, tensors)
    except (LensError, SiteError) as error:
        raise LensError(f"is damaged: {error.what}", where=str(path), cure="Export it again.") from None
    return header, tensors


def _read(path: Path) -> tuple[Header, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LensError("no such file", where=str(path), cure="Write one: neuronlens export AUDIT --concept NAME.")
    if path.stat().st_size > _MOST_BYTES:
        raise LensError("is too large for a lens", where=str(path), cure="Export it again.")
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get(_KEY)
            # an open file gives its names by keys() alone, and cannot be iterated over
            found = {} if told is None else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise LensError(
            f"is no safetensors file ({_printable(error)})", where=str(path), cure="Export it again."
        ) from None
    if told is None:
        raise LensError("is no lens of NeuronLens", where=str(path), cure="neuronlens export writes them.")
    try:
        version = _Format.model_validate_json(told).format
        if version > FORMAT:
            raise LensError(
                f"has format {version}, newer than {FORMAT}, the newest this NeuronLens reads",
                where=str(path),
                cure="Upgrade it.",
            )
        return Header.model_validate_json(told), found
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "header"
        raise LensError(
            _printable(f"is damaged: {at}: {first['msg']}"), where=str(path), cure="Export it again."
        ) from None


def _check(header: Header, tensors: Sequence[Tensors]) -> None:
    for part, own in zip(header.parts, tensors, strict=True):
        part.check(own)
    sites = [Site.parse(part.site) for part in header.parts]
    _expect(all(one < two for one, two in pairwise(sites)), "its sites are not in order")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise LensError(what)


def _printable(said: object) -> str:
    """What is told about a file, which may quote it at length."""
    return printable(str(said)[:300])
