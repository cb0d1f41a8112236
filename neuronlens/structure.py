"""The structure of models whose family is not in the table: where they keep their parts, by the shape of what they are built from.

Only classes of the installed transformers are built, from the config alone and without weights.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from neuronlens.beside import Beside
from neuronlens.errors import SiteError
from neuronlens.families import FAMILIES, Family, never

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_INNER = ("intermediate_size", "ffn_dim", "n_inner", "inner_dim", "ffn_hidden_size", "d_inner", "d_ff", "hidden_dim")
_PATHS = ("mlp_down", "attn_out", "mlp_out")
_log = logging.getLogger("neuronlens")
_families: Beside[Family] = Beside()


def known_family(config: Any) -> Family:
    """The family of a config: what it was told, else the table's, else a guess, which is made once.

    Raises:
        SiteError: no blocks can be found.
    """
    held = _families.get(config)
    if held is not None:
        return held
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    found = _guess(config, {})
    _log.warning("%s", found.guessed[0])
    return hold(config, found)


def hold(config: Any, family: Family) -> Family:
    """Let a config be of a family for as long as it lives."""
    return _families.put(config, family)


def tell(config: Any, told: Mapping[str, Any]) -> Family:
    """The family of a config, where some of it is told. Of what is left open the table or the structure says what it is.

    Args:
        told: fields of `Family`.

    Raises:
        SiteError: the model has no such part; where, and what it has.
    """
    if config.model_type in FAMILIES:
        found = replace(FAMILIES[config.model_type], **told, attention=None, flat=True, one_token=never)
        _validate(config, found, told)
    else:
        found = _guess(config, told)
    if found.guessed:
        _log.warning("%s", found.guessed[0])
    return hold(config, found)


def _base(config: Any) -> nn.Module:
    """The stock model without a head and without weights."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
    return model


def _guess(config: Any, told: Mapping[str, Any]) -> Family:
    base, hidden = _base(config), int(config.hidden_size)
    layers = told.get("layers") or "num_hidden_layers"
    if not hasattr(config, layers):
        raise _wrong("layers", f"the config has no {layers!r}")
    path = told.get("blocks") or _blocks(base, int(getattr(config, layers)), str(config.model_type))
    block = _block(base, path, int(getattr(config, layers)))
    attention = _attention(block)
    found: dict[str, Any] = {
        "mlp_down": told.get("mlp_down") or _down(block, hidden, attention),
        "attn_out": told.get("attn_out") or _last_projection(block, hidden, attention),
    }
    found["mlp_out"] = told.get("mlp_out") or found["mlp_down"]
    width = _projections(block).get(found["mlp_down"] or "", (4 * hidden, hidden))[0]
    named = next((name for name in _INNER if getattr(config, name, None) == width), width)
    decoder = told.get("decoder")
    family = Family(
        path,
        **found,
        layers=layers,
        inner=told.get("inner") or named,
        decoder=not _has_a_masked_head(config) if decoder is None else decoder,
        flat=True,  # whether it is so shows when it runs
        padded_positions=_counts_from_padding(base),
        one_token=never,
    )
    _validate(config, family, told)
    return replace(family, guessed=tuple(_sentence(config, family, told)))


def _sentence(config: Any, family: Family, told: Mapping[str, Any]) -> Iterator[str]:
    """What of a family nobody has told."""
    places = {"blocks": family.blocks, **{name: getattr(family, name) for name in _PATHS}}
    parts = [f"{name} {path or 'not found'}" for name, path in places.items() if name not in told]
    if "decoder" not in told:
        parts.append("causal attention" if family.decoder else "attention in both directions")
    if parts:
        yield (
            f"model type {config.model_type!r} is not in docs/models.md; by its structure it has {', '.join(parts)}. "
            "Where that is wrong, set checkpoint.family"
        )


def _blocks(base: nn.Module, count: int, model_type: str) -> str:
    """The outermost list of as many equal modules as there are blocks."""
    from torch import nn

    lists = {
        name: len(part) for name, part in base.named_modules() if isinstance(part, nn.ModuleList) and _equal([*part])
    }
    path = max(lists, key=lambda name: (lists[name] == count, lists[name]), default=None)
    if path is None or lists[path] != count:
        longest = "" if path is None else f"; the longest list of equal modules, {path}, has {lists[path]}"
        shared = ", and blocks that are used several times cannot be told apart" if path and lists[path] < count else ""
        raise SiteError(
            f"model type {model_type!r} is not in docs/models.md and shows no list of its {count} blocks{longest}{shared}",
            cure="Where it has one, tell it as checkpoint.family.blocks.",
        )
    return str(path)


def _equal(modules: Sequence[nn.Module]) -> bool:
    """Whether modules, of which there are some, are of one class and hold matrices of the same shapes under the same names."""
    shapes = [{name: part.shape for name, part in module.named_parameters() if part.dim() > 1} for module in modules]
    return (
        bool(shapes and shapes[0]) and all(shape == shapes[0] for shape in shapes) and len({*map(type, modules)}) == 1
    )


def _block(base: nn.Module, path: str, count: int) -> nn.Module:
    """The first of the blocks.

    Raises:
        SiteError: there are none, or not as many as the config says.
    """
    from torch import nn

    try:
        blocks = base.get_submodule(path)
    except AttributeError:
        blocks = None
    if not isinstance(blocks, nn.ModuleList):
        lists = [name for name, part in base.named_modules() if isinstance(part, nn.ModuleList)]
        raise _wrong("blocks", f"the model has no list of modules {path!r}", lists)
    if len(blocks) != count:
        raise _wrong("blocks", f"{path} has {len(blocks)} modules, the config says {count}")
    return blocks[0]


def _projections(block: nn.Module) -> dict[str, tuple[int, int]]:
    """Path below a block -> (inputs, outputs) of every linear map, in the order in which the block holds them."""
    found = {}
    for name, part in block.named_modules():
        weight = getattr(part, "weight", None)
        if (
            weight is not None
            and weight.dim() == 2
            and ("Linear" in type(part).__name__ or "Conv1D" in type(part).__name__)
        ):
            found[name] = tuple(weight.shape) if "Conv1D" in type(part).__name__ else tuple(reversed(weight.shape))
    return found


def _attention(block: nn.Module) -> str | None:
    """The outermost module with a projection that is named after attention, by its class or itself."""
    projections = _projections(block)
    for name, part in block.named_modules():
        called = f"{name.rpartition('.')[2]} {type(part).__name__}".lower()
        if name and re.search("attention|attn", called) and any(path.startswith(f"{name}.") for path in projections):
            return str(name)
    return None


def _last_projection(block: nn.Module, hidden: int, attention: str | None) -> str | None:
    """Of the attention, what leads back to the residual stream."""
    if attention is None:
        return None
    own = [
        str(path)
        for path, (_, outputs) in _projections(block).items()
        if path.startswith(f"{attention}.") and outputs == hidden
    ]
    return own[-1] if own else None


def _down(block: nn.Module, hidden: int, attention: str | None) -> str | None:
    """Outside the attention, the widest that leads back to the residual stream; None where several are as wide, as those of experts."""
    own = {
        path: inputs
        for path, (inputs, outputs) in _projections(block).items()
        if outputs == hidden and not (attention and path.startswith(f"{attention}."))
    }
    widest = [path for path, inputs in own.items() if inputs == max(own.values())]
    return widest[0] if len(widest) == 1 else None


def _has_a_masked_head(config: Any) -> bool:
    """Whether transformers has a class for it that fills gaps, which a model needs both directions for."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_MASKED_LM_MAPPING


def _counts_from_padding(base: nn.Module) -> bool:
    return any(
        name.rpartition(".")[2] == "position_embeddings" and getattr(part, "padding_idx", None) is not None
        for name, part in base.named_modules()
    )


def _validate(config: Any, family: Family, told: Mapping[str, Any]) -> None:
    """Refuse what was told and the model does not have."""
    if not hasattr(config, family.layers):
        raise _wrong("layers", f"the config has no {family.layers!r}")
    block = _block(_base(config), family.blocks, int(getattr(config, family.layers)))
    for field in _PATHS:
        path = getattr(family, field)
        try:
            block.get_submodule(path or "")
        except AttributeError:
            has = [name for name, _ in block.named_modules() if name]
            raise _wrong(field, f"a block has no {path!r}", has) from None
    if "inner" in told and not hasattr(config, told["inner"]):
        raise _wrong("inner", f"the config has no {told['inner']!r}")
    made = _projections(block).get(family.mlp_down or "")
    width = family.inner if isinstance(family.inner, int) else getattr(config, family.inner, None)
    width = 4 * int(config.hidden_size) if width is None else int(width)
    if made is not None and made[0] != width:
        raise _wrong("inner", f"{family.mlp_down} takes {made[0]} neurons, the config says {width}")


@dataclass(frozen=True)
class Difference:
    """What a model of a guessed or told family does otherwise than its family says.

    Attributes:
        fatal: whether what is computed would be wrong, rather than mean something else.
    """

    what: str
    cure: str
    fatal: bool


def differences(model: PreTrainedModel, family: Family) -> list[Difference]:
    """Try a model on two rows that differ in their last token."""
    import torch

    block: Any = next(model.base_model.get_submodule(family.blocks).children())
    seen: dict[str, torch.Tensor] = {}

    def first(given: Any) -> torch.Tensor:
        found: torch.Tensor = given[0] if isinstance(given, tuple) else given
        return found.detach().float().reshape(2, -1, found.shape[-1]).clone()  # some blocks add in place

    def note(name: str) -> Any:
        return lambda _, __, ___, output: seen.update({name: first(output)})

    def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["before"] = first(args[0] if args else kwargs["hidden_states"])

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True)]
    for name, path in (("after", ""), ("attn_out", family.attn_out), ("mlp_out", family.mlp_out)):
        if path is not None:
            handles.append(block.get_submodule(path).register_forward_hook(note(name), with_kwargs=True))
    high = min(8, int(model.config.vocab_size)) - 1
    rows = torch.tensor([[high - 3, high - 2, high - 1], [high - 3, high - 2, high]], device=model.device)
    try:
        with torch.inference_mode():
            model(input_ids=rows, attention_mask=torch.ones_like(rows))
    finally:
        for handle in handles:
            handle.remove()
    found = []
    after, tolerance = seen["after"], 64 * torch.finfo(model.dtype).eps * float(seen["after"].abs().max())
    looks_ahead = float((after[0, 0] - after[1, 0]).abs().max()) > tolerance
    if looks_ahead == family.decoder:
        how = "the tokens behind it" if looks_ahead else "no tokens behind it"
        cure = f"Set checkpoint.family: {{decoder: {str(not family.decoder).lower()}}}."
        found.append(Difference(f"a token's activations depend on {how}", cure, fatal=True))
    if {"attn_out", "mlp_out"} <= {*seen}:
        off = float((seen["before"] + seen["attn_out"] + seen["mlp_out"] - after).abs().max())
        if off > tolerance:
            what = "a block does not give its input + attn_out + mlp_out: it has norms behind additions, or scales what it adds"
            found.append(Difference(what, "", fatal=False))
    return found


def doubts(model: PreTrainedModel) -> list[str]:
    """What a reader should know of where the sites of a model lie: what was guessed, and where its sums do not agree; nothing of a
    family in the table."""
    family = known_family(model.config)
    if family is FAMILIES.get(model.config.model_type):
        return []
    return [*family.guessed, *(item.what for item in differences(model, family))]


def _wrong(field: str, what: str, has: Sequence[str] = ()) -> SiteError:
    cure = f"It has: {', '.join(has)}." if has else "Look at the model's modules and its config.json."
    return SiteError(what, where=f"checkpoint.family.{field}", cure=cure)
