"""Sites: the places of a transformer where activations are read and edited, found on the stock transformers classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from neuronlens.errors import SiteError, did_you_mean

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

COMPONENTS = ("resid_post", "mlp_post")


@dataclass(frozen=True)
class Attention:
    """Where a block keeps its attention, as paths below the block.

    Attributes:
        module: takes hidden states of all tokens and returns what each token gathered, first of a tuple.
        entrance: the module that hands it the hidden states: the norm in front of it, or itself where the norm comes behind.
        out: projection that every token's gathered values pass one by one.
        query: projection that makes the queries. None where they cannot be had apart from keys and values.
        query_first: whether it makes queries, keys and values at once, a third of its outputs each.
    """

    module: str
    entrance: str
    out: str
    query: str | None
    query_first: bool = False


@dataclass(frozen=True)
class Family:
    """Where a model type keeps its parts, as paths below its base model (the model without a head).

    Attributes:
        blocks: the ModuleList of transformer blocks.
        mlp_down: the MLP's down projection, below a block; its input is what `mlp_post` means (act(gate) * up where gated).
        mlp: below a block, the module that ends with the down projection, or the one whose output that takes.
        attention: of a block.
        layers: config attribute that counts the blocks.
        inner: config attribute with the MLP's width; where it is None in the config the width is 4 x hidden (GPT-2).
        decoder: causal attention; decides which token stands for a row.
    """

    blocks: str
    mlp_down: str
    mlp: str
    attention: Attention
    layers: str = "num_hidden_layers"
    inner: str = "intermediate_size"
    decoder: bool = True


_BERT = Family(
    "encoder.layer",
    "output.dense",
    "intermediate",
    Attention("attention.self", "attention.self", "attention.output.dense", "attention.self.query"),
    decoder=False,
)
_LLAMA = Family(
    "layers",
    "mlp.down_proj",
    "mlp",
    Attention("self_attn", "input_layernorm", "self_attn.o_proj", "self_attn.q_proj"),
)
FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": Family(
        "transformer.layer",
        "ffn.lin2",
        "ffn",
        Attention("attention", "attention", "attention.out_lin", "attention.q_lin"),
        layers="n_layers",
        inner="hidden_dim",
        decoder=False,
    ),
    "gpt2": Family(
        "h",
        "mlp.c_proj",
        "mlp",
        Attention("attn", "ln_1", "attn.c_proj", "attn.c_attn", query_first=True),
        layers="n_layer",
        inner="n_inner",
    ),
    "gpt_neox": Family(
        "layers",
        "mlp.dense_4h_to_h",
        "mlp",
        Attention("attention", "input_layernorm", "attention.dense", None),  # queries, keys, values alternate by head
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "gemma2": _LLAMA,
}


@dataclass(frozen=True, order=True)
class Site:
    """A component of one layer.

    Attributes:
        layer: counted from 0.
        component: `resid_post`, the block's output before any final norm, or `mlp_post`, the input of the MLP's down projection.
    """

    layer: int
    component: str

    def __str__(self) -> str:
        return f"{self.component}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site a name such as `resid_post.3` stands for (layers as numbers only).

        Raises:
            SiteError: the text names no component or no layer.
        """
        component, _, layer = text.partition(".")
        if component not in COMPONENTS:
            raise SiteError(
                f"unknown component {component!r} in site {text!r}", cure=did_you_mean(component, COMPONENTS)
            )
        if not (layer.isascii() and layer.isdigit()):  # int() cannot read every digit of Unicode
            raise SiteError(f"site {text!r} names no layer", cure="Write it as component.layer, such as resid_post.3.")
        return cls(int(layer), component)


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`.

    Raises:
        SiteError: the family is not known.
    """
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise SiteError(
            f"model type {model_type!r} is not supported", cure=f"Supported: {', '.join(FAMILIES)}."
        ) from None


def expand_sites(specs: Sequence[str], layers: int) -> tuple[Site, ...]:
    """The sites that specs such as `resid_post.last`, `mlp_post.all` or `resid_post.2` name in a model of that many blocks.

    Ordered by layer, then component; named twice counts once.

    Raises:
        SiteError: an unknown component, or a layer that does not exist.
    """
    sites: set[Site] = set()
    for spec in specs:
        component, _, layer = spec.partition(".")
        named = {"last": [layers - 1], "middle": [layers // 2], "all": list(range(layers))}
        try:
            found = [Site.parse(f"{component}.{index}") for index in named.get(layer, [])] or [Site.parse(spec)]
        except SiteError as error:
            raise SiteError(error.what, where="extract.sites", cure=error.cure) from None
        for site in found:
            if site.layer >= layers:
                raise SiteError(
                    f"site {spec!r}: layer {site.layer} does not exist",
                    where="extract.sites",
                    cure=f"The model has {layers} layers: 0 to {layers - 1}, last, middle or all.",
                )
            sites.add(site)
    if not sites:
        raise SiteError("no site is named", where="extract.sites", cure="Name at least one, such as resid_post.last.")
    return tuple(sorted(sites))


def layer_count(config: Any) -> int:
    """Number of blocks a transformers config declares."""
    return int(getattr(config, family_of(config.model_type).layers))


def site_width(config: Any, site: Site) -> int:
    """Number of neurons at a site, from the config."""
    hidden = int(config.hidden_size)
    if site.component == "resid_post":
        return hidden
    inner = getattr(config, family_of(config.model_type).inner, None)
    return int(inner) if inner is not None else 4 * hidden


def top_count(width: int, share: float) -> int:
    """Neurons in the top share of a site: floor(share * width), as the reference counts.

    Raises:
        SiteError: that is no neuron at all.
    """
    count = int(share * width)
    if count == 0:
        raise SiteError(
            f"top = {share:g} of {width} neurons is less than one",
            where="interventions.top",
            cure=f"Use at least {ceil(1000 / width) / 1000:g}.",
        )
    return count


@dataclass(frozen=True)
class Module:
    """The module that a site resolved to.

    Attributes:
        path: dotted path from the model, for the record.
        module: a forward hook on it sees `resid_post` as output, a forward pre-hook sees `mlp_post` as first input.
        reads_input: whether the site is the module's input.
        width: number of neurons.
    """

    path: str
    module: nn.Module
    reads_input: bool
    width: int


def blocks_of(model: PreTrainedModel) -> tuple[str, Sequence[nn.Module]]:
    """The transformer blocks of a stock model: their dotted path and the blocks in order.

    Raises:
        SiteError: the family is unknown, or the model is not built as its family is.
    """
    base: nn.Module = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    path = family_of(model.config.model_type).blocks
    try:
        blocks = base.get_submodule(path)
    except AttributeError:
        raise SiteError(f"the model has no {prefix}{path}; it is not built as its family is") from None
    return prefix + path, list(blocks.children())


def resolve(model: PreTrainedModel, site: Site) -> Module:
    """The module to hook for a site.

    Raises:
        SiteError: the site resolves to nothing in this model.
    """
    path, blocks = blocks_of(model)
    if site.layer >= len(blocks):
        raise SiteError(
            f"site {site}: layer {site.layer} does not exist", cure=f"The model has layers 0 to {len(blocks) - 1}."
        )
    block, path = blocks[site.layer], f"{path}.{site.layer}"
    width = site_width(model.config, site)
    if site.component == "resid_post":
        return Module(path, block, reads_input=False, width=width)
    down = family_of(model.config.model_type).mlp_down
    try:
        return Module(f"{path}.{down}", block.get_submodule(down), reads_input=True, width=width)
    except AttributeError:
        raise SiteError(f"site {site}: the block has no {down}; the model is not built as its family is") from None
