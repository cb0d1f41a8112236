"""What evaluation costs, before it runs: the way that the edits of each site take, and its work in plain forward passes.

The unit is a token's way through all blocks, without the head. Work is counted in multiplications of weights; what attention does between
tokens is counted by the length of the rows, and what an edit itself does to its neurons is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuronlens.activations.readout import decides_by_one_token
from neuronlens.checkpoint import Checkpoint
from neuronlens.evaluation.columns import paying_share
from neuronlens.evaluation.stacked import edits_together
from neuronlens.sites import Site, blocks_of, family_of, layer_count


@dataclass(frozen=True)
class Shape:
    """Shares of a token's way through all blocks.

    Attributes:
        layers: how many blocks.
        entrance: of the last block, what a token costs that is only looked at by others: keys and values; the whole block where that
            cannot follow one token.
        down: the down projection of a block's MLP.
        head: logits of the whole vocabulary, or of a classifier's classes.
        out: the projection behind the attention, where it does not count as part of it.
        within: whether edits of an MLP start from its neurons.
        one_token: whether one token of what the last block gives decides a row.
    """

    layers: int
    entrance: float
    down: float
    head: float
    out: float = 0.0
    within: bool = True
    one_token: bool = True

    @property
    def block(self) -> float:
        """One block."""
        return 1 / self.layers

    @classmethod
    def of(cls, checkpoint: Checkpoint, tokens_a_row: float) -> Shape:
        """From the checkpoint's config; no weights are loaded.

        Args:
            tokens_a_row: mean length of the rows.
        """
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        classifier = checkpoint.kind == "classifier"
        loader: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
        with torch.device("meta"):
            model = loader.from_config(checkpoint.config)
        family = family_of(checkpoint.config)
        blocks = torch.nn.ModuleList(blocks_of(model)[1])
        block = blocks[-1]
        where, hidden = family.attention, int(checkpoint.config.hidden_size)
        one_token, layers = decides_by_one_token(model), layer_count(checkpoint.config)
        between = 2 * tokens_a_row * hidden / (2 if family.decoder else 1)  # products of queries, keys and values
        whole = _weights(block) + between
        output = model.get_output_embeddings()
        head = _weights(model) - _weights(blocks) - _embedded(model) if output is None else _weights(output)
        if where is None or family.mlp_down is None:
            return cls(layers, 1 / layers, 0.0, head / (whole * layers), within=False, one_token=one_token)
        attention = _weights(block.get_submodule(where.module))
        out = _weights(block.get_submodule(where.out))
        inside = where.out.startswith(f"{where.module}.")
        query = 0.0
        if where.query is not None:
            query = _weights(block.get_submodule(where.query)) / (3 if where.query_first else 1)
        entrance = attention - (out if inside else 0) - query + between if one_token else whole
        down = _weights(block.get_submodule(family.mlp_down))
        share = 1 / (whole * layers)
        return cls(
            layers, entrance * share, down * share, head * share, 0.0 if inside else out * share, one_token=one_token
        )

    def starts_within(self, site: Site) -> bool:
        """As of `neuronlens.evaluation.suffix.starts_within`."""
        return self.within and site.component in ("mlp_post", "mlp_out")

    def own_block(self, site: Site) -> tuple[float, float]:
        """Of a site's own block, what a token costs under each edit, and once for all of them."""
        if site.component == "resid_post":
            return 0.0, 0.0
        return (self.down + self.out, self.block) if self.starts_within(site) else (self.block, 0.0)


def _weights(module: torch.nn.Module) -> float:
    """Multiplications a token: entries of the matrices."""
    return float(sum(weight.numel() for weight in module.parameters() if weight.dim() > 1))


def _embedded(model: torch.nn.Module) -> float:
    """Entries of the tables that tokens are looked up in."""
    return sum(_weights(module) for module in model.modules() if isinstance(module, torch.nn.Embedding))


@dataclass(frozen=True)
class Route:
    """The way that edits of a site take.

    Attributes:
        name: in words.
        token: work of an edit for each token of a row.
        row: work of an edit for each row.
        once: work for each token of a row that all edits of the site share.
        together: how many edits share a call.
    """

    name: str
    token: float
    row: float
    once: float = 0.0
    together: int = 1

    def work(self, edits: int, rows: int, tokens: int) -> float:
        """Of a number of edits on all rows, in passes of a token."""
        return edits * (self.token * tokens + self.row * rows) + (self.once * tokens if edits else 0)


def deciding_route(
    shape: Shape, site: Site, *, shared: float = 0.0, device: str = "cpu", batch: int = 1024, some_logits: bool = False
) -> Route:
    """How rows are answered under edits of a site (see `neuronlens.evaluation.deciding`).

    Args:
        shared: share of the tokens that stand in a prompt which all rows begin with.
        batch: tokens of a batch.
        some_logits: whether a scoring looks at the labels' logits alone.
    """
    head = 0.0 if some_logits else shape.head
    site = site.below  # latents are edited where their activations are
    own, once = shape.own_block(site)
    together = 1 if shared else edits_together(torch.device(device), batch)
    if site.layer == shape.layers - 1:
        if site.component == "resid_post":
            return Route("one vector a row, from the last block on" if shape.one_token else "the head", 0.0, head)
        if site.component == "mlp_post" and once and shape.one_token:
            return Route("one vector a row, from the last block's neurons on", 0.0, own + head, once)
        name = "the projection of the last block's neurons" if once else "the last block"
        return Route(_stacked(name, together), own, head, once, together)
    behind = own + (shape.layers - 2 - site.layer) * shape.block + shape.entrance
    first = site.layer + (1 if once or not own else 0)
    name = f"blocks {first} to {shape.layers - 1}" if first + 1 < shape.layers else f"block {first}"
    if shape.entrance < shape.block:
        name += ", of the last what one token needs"
    if once:
        name = f"the neurons' projection, {name}"
    if shared:
        name += f"; the shared prompt ({shared:.0%} of the tokens) once an edit"
    return Route(_stacked(name, together), behind * (1 - shared), shape.block - shape.entrance + head, once, together)


def _stacked(name: str, together: int) -> str:
    return f"{name}; {together} edits a call" if together > 1 else name


def joint_route(shape: Shape, site: Site) -> Route:
    """How rows are answered at most, where a site and deeper ones are edited together: what lies behind the first of them runs whole."""
    site = site.below
    own, once = shape.own_block(site)
    first = site.layer + (1 if once or not own else 0)
    name = f"at most blocks {first} on" if first < shape.layers else "the last block"
    if once:
        name = f"at most the neurons' projection of block {site.layer} on"
    return Route(name, own + (shape.layers - 1 - site.layer) * shape.block, shape.head, once)


def text_route(shape: Shape, site: Site, width: int, shares: Sequence[float]) -> Route:
    """How the losses of ordinary text are had under edits of a site (see `neuronlens.evaluation.text`).

    Args:
        width: D, neurons of the residual stream.
        shares: of the site's neurons that edits change, each for as many of them.
    """
    shares, site = [1.0 if site.is_latent else share for share in shares], site.below  # a latent moves all coordinates
    if site.layer == shape.layers - 1 and site.component == "resid_post":
        paid = [paying_share(int(share * width), width) for share in shares]
        columns = sum(paid) / len(paid)
        name = "the head's columns of the edited neurons" if columns < 1 else "the head"
        return Route(name, shape.head * columns, 0.0)
    own, once = shape.own_block(site)
    name = f"blocks {site.layer + (1 if not own else 0)} on, and the head"
    if once:
        name = f"the neurons' projection of block {site.layer} on, and the head"
    return Route(name, own + (shape.layers - 1 - site.layer) * shape.block + shape.head, 0.0, once)
