"""Sites: the places of a transformer where activations are read and edited, found on the stock transformers classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from neuronlens.autoencoder import Autoencoder, autoencoder_at
from neuronlens.errors import SiteError, did_you_mean
from neuronlens.families import Family
from neuronlens.structure import known_family

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

COMPONENTS = ("attn_out", "mlp_post", "mlp_out", "resid_post")  # in the order in which a forward call meets them
_LATENT = "sae_"
_KNOWN = tuple(name for component in COMPONENTS for name in (component, _LATENT + component))


@dataclass(frozen=True)
class Site:
    """A component of one layer. Sites are ordered as a forward call meets them.

    Attributes:
        layer: counted from 0.
        component: `resid_post`, the block's output before any final norm; `mlp_post`, the input of the MLP's down projection; `attn_out`
            and `mlp_out`, what attention and MLP add to the residual stream; `sae_` and one of these, the latents that the checkpoint's
            sparse autoencoder has there.
    """

    layer: int
    component: str

    def __str__(self) -> str:
        return f"{self.component}.{self.layer}"

    def __lt__(self, other: Site) -> bool:
        return (self.layer, _KNOWN.index(self.component)) < (other.layer, _KNOWN.index(other.component))

    @property
    def is_latent(self) -> bool:
        """Whether its neurons are latents of an autoencoder."""
        return self.component.startswith(_LATENT)

    @property
    def below(self) -> Site:
        """Of latents the site that they are of; else itself."""
        return Site(self.layer, self.component.removeprefix(_LATENT))

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site a name such as `resid_post.3` stands for (layers as numbers only).

        Raises:
            SiteError: the text names no component or no layer.
        """
        component, _, layer = text.partition(".")
        if component not in _KNOWN:
            known = _KNOWN if component.startswith(_LATENT) else COMPONENTS
            raise SiteError(f"unknown component {component!r} in site {text!r}", cure=did_you_mean(component, known))
        if not (layer.isascii() and layer.isdigit()):  # int() cannot read every digit of Unicode
            raise SiteError(f"site {text!r} names no layer", cure="Write it as component.layer, such as resid_post.3.")
        return cls(int(layer), component)


def family_of(config: Any) -> Family:
    """The family of a transformers config: as it was told, as `neuronlens.families` has it, or as its structure shows.

    Raises:
        SiteError: the family is not known and its blocks cannot be found.
    """
    return known_family(config)


def expand_sites(specs: Sequence[str], layers: int) -> tuple[Site, ...]:
    """The sites that specs such as `resid_post.last`, `mlp_post.all` or `resid_post.2` name in a model of that many blocks.

    In the order in which a forward call meets them; named twice counts once.

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
    return int(getattr(config, family_of(config).layers))


def site_width(config: Any, site: Site) -> int:
    """Number of neurons at a site, from the config.

    Raises:
        SiteError: latents, of a checkpoint that was opened with no autoencoder there.
    """
    if site.is_latent:
        return autoencoder_at(config, str(site.below)).latents
    hidden = int(config.hidden_size)
    if site.component != "mlp_post":
        return hidden
    inner = family_of(config).inner
    width = inner if isinstance(inner, int) else getattr(config, inner, None)
    return int(width) if width is not None else 4 * hidden


def module_below_block(config: Any, site: Site) -> str:
    """Path below a block of the module that a site is the output of (`mlp_post`: the input); "" for the block itself.

    Raises:
        SiteError: where it lies is not known.
    """
    site = site.below
    if site.component == "resid_post":
        return ""
    field = "mlp_down" if site.component == "mlp_post" else site.component
    path: str | None = getattr(family_of(config), field)
    if path is None:
        raise SiteError(
            f"site {site}: the structure of model type {config.model_type!r} does not show where it lies",
            where="extract.sites",
            cure=f"Tell it as a path below a block, such as checkpoint.family: {{{field}: mlp.down_proj}} in params.yaml.",
        )
    return path


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
        module: a forward hook on it sees the site as output, a forward pre-hook sees `mlp_post` as first input.
        reads_input: whether the site is the module's input.
        width: numbers that it gives or takes for a token.
        block: where the module sees tokens of all rows in one line, the block, whose input says how many rows there are.
        autoencoder: makes latents of these numbers, where the site is of latents.
    """

    path: str
    module: nn.Module
    reads_input: bool
    width: int
    block: nn.Module | None = None
    autoencoder: Autoencoder | None = None


def blocks_of(model: PreTrainedModel) -> tuple[str, Sequence[nn.Module]]:
    """The transformer blocks of a stock model: their dotted path and the blocks in order.

    Raises:
        SiteError: the family is unknown, or the model is not built as its family is.
    """
    base: nn.Module = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    path = family_of(model.config).blocks
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
    if site.is_latent:
        return replace(resolve(model, site.below), autoencoder=autoencoder_at(model.config, str(site.below)))
    path, blocks = blocks_of(model)
    if site.layer >= len(blocks):
        raise SiteError(
            f"site {site}: layer {site.layer} does not exist", cure=f"The model has layers 0 to {len(blocks) - 1}."
        )
    block, path = blocks[site.layer], f"{path}.{site.layer}"
    width, below = site_width(model.config, site), module_below_block(model.config, site)
    if not below:
        return Module(path, block, reads_input=False, width=width)
    try:
        module = block.get_submodule(below)
    except AttributeError:
        raise SiteError(f"site {site}: the block has no {below}; the model is not built as its family is") from None
    in_line = block if family_of(model.config).flat else None
    return Module(f"{path}.{below}", module, site.component == "mlp_post", width, in_line)
