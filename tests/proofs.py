"""What is proven of a family with a head: that each site is what the stock modules say it is. docs/models.md is written from it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch

from neuronlens.activations.capture import capture
from neuronlens.activations.readout import has_vocabulary
from neuronlens.interventions.edit import edit
from neuronlens.sites import COMPONENTS, Site, family_of, resolve, site_width
from tests import reference
from tests.evaluation.edits import half
from tests.models import LAYERS, random_model, with_random_gains

ROWS = [[7, 9, 5, 11, 6, 8, 12], [10, 5, 13]]
PAD = 0
TOLERANCE = 1e-5
# what stands between a block's sums, by family; the rest give their input + attn_out + mlp_out
NORMS = {
    **dict.fromkeys(("bert", "roberta", "deberta-v2", "electra"), ("attention.output.LayerNorm", "output.LayerNorm")),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
}


@cache
def model_of(family: str, head: str | None = None, **overrides: Any) -> Any:
    """A random model, gains and biases included."""
    return with_random_gains(random_model(family, head=head, **overrides))


def padded(model: Any, side: str = "right") -> dict[str, torch.Tensor]:
    """Both rows, of unequal length, as the library hands them to a model."""
    width = max(map(len, ROWS))
    ids, mask = torch.full((len(ROWS), width), PAD), torch.zeros(len(ROWS), width, dtype=torch.long)
    for row, tokens in enumerate(ROWS):
        own = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        ids[row, own], mask[row, own] = torch.tensor(tokens), 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if side == "left" and model.config.model_type != "bloom":  # which has no positions
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return inputs


@dataclass(frozen=True)
class Seen:
    """Of a block, on the tokens of a row without padding: [T, D] what came in, and what each site gave by the tests' own hooks."""

    entered: torch.Tensor
    sites: Mapping[str, torch.Tensor]


def look(model: Any, row: list[int]) -> list[Seen]:
    """Of every block, from a row that is run alone with hooks on the stock modules."""
    family, layers = model.config.model_type, range(LAYERS)
    entered: list[torch.Tensor] = []
    found: list[dict[str, torch.Tensor]] = [{} for _ in layers]
    with ExitStack() as stack:
        for block in model.get_submodule(reference.BLOCKS[family]):

            def enter(_: Any, args: Any, kwargs: Any) -> None:
                entered.append((args[0] if args else kwargs["hidden_states"])[0].clone())

            stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        for layer, component in product(layers, COMPONENTS):

            def note(hidden: torch.Tensor, layer: int = layer, component: str = component) -> None:
                found[layer][component] = hidden[0].clone()

            stack.enter_context(reference.hooked(model, family, layer, component, note))
        reference.logits_of(model, row)
    return [Seen(entered[layer], found[layer]) for layer in layers]


@torch.inference_mode()
def captured_is_what_stands_there(model: Any) -> None:
    """Of a padded batch, at every token and site, it is what the row alone gives by the tests' own hooks; widths are the config's."""
    sites = [Site(layer, component) for layer in range(LAYERS) for component in COMPONENTS]
    inputs = padded(model)
    with capture(model, sites) as found:
        found.wanted = inputs["attention_mask"].nonzero(as_tuple=True)
        model(**inputs)
        tokens = dict(found.tokens)
    seen = [look(model, row) for row in ROWS]
    for site in sites:
        expected = torch.cat([blocks[site.layer].sites[site.component] for blocks in seen])
        assert tokens[site].shape == (sum(map(len, ROWS)), site_width(model.config, site)), site
        torch.testing.assert_close(tokens[site], expected, rtol=TOLERANCE, atol=TOLERANCE, msg=str(site))


@torch.inference_mode()
def sites_add_up(model: Any) -> str:
    """The stock norms make a block's output of its input, `attn_out` and `mlp_out`, and the projection `mlp_out` of `mlp_post`.

    Returns:
        How they add up, in words.
    """
    family, config = model.config.model_type, model.config
    for block, seen in zip(model.get_submodule(reference.BLOCKS[family]), look(model, ROWS[0]), strict=True):
        attention, neurons, mlp, out = (seen.sites[component] for component in COMPONENTS)
        norms = NORMS.get(family, ())
        if family == "opt" and not config.do_layer_norm_before:
            norms = ("self_attn_layer_norm", "final_layer_norm")
        if norms:
            first, second = (block.get_submodule(name) for name in norms)
            made, how = second(first(seen.entered + attention) + mlp), "no: a norm behind each sum"
        elif family == "bloom" and config.apply_residual_connection_post_layernorm:
            middle = block.input_layernorm(seen.entered) + attention
            made, how = block.post_attention_layernorm(middle) + mlp, "no: sums start from behind the norms"
        else:
            made, how = seen.entered + attention + mlp, "yes"
        torch.testing.assert_close(made, out, rtol=TOLERANCE, atol=TOLERANCE)
        down = block.get_submodule(reference.DOWN[family])
        expected = down(neurons[None])[0]
        if reference.MLP_OUT[family] == "post_feedforward_layernorm":
            expected = block.post_feedforward_layernorm(expected)
        torch.testing.assert_close(mlp, expected, rtol=TOLERANCE, atol=TOLERANCE)
        plain = seen.entered + attention + mlp
        assert torch.allclose(plain, out, rtol=TOLERANCE, atol=TOLERANCE) == (how == "yes")
    return how


@torch.inference_mode()
def an_idle_edit_changes_no_bit(model: Any) -> None:
    """At any site, and at all of them together."""
    inputs = padded(model)
    plain = model(**inputs).logits
    edits = [half(model.config, Site(layer, part)).idle() for layer in range(LAYERS) for part in COMPONENTS]
    for given in (*([item] for item in edits), edits):
        with edit(model, given):
            assert torch.equal(model(**inputs).logits, plain)


@torch.inference_mode()
def padding_changes_nothing(model: Any) -> None:
    """On either side where attention is causal; nor the classes of a classifier."""
    sites = [Site(layer, component) for layer in range(LAYERS) for component in COMPONENTS]
    for side in ("right", "left") if family_of(model.config).decoder else ("right",):
        with capture(model, sites) as found:
            logits = model(**padded(model, side)).logits
        for place, row in enumerate(ROWS):
            with capture(model, sites) as alone:
                expected = model(torch.tensor([row])).logits[0]
            for site in sites:
                torch.testing.assert_close(found[site][place], alone[site][0], rtol=1e-4, atol=TOLERANCE)
            if not has_vocabulary(model):
                torch.testing.assert_close(logits[place], expected, rtol=1e-4, atol=TOLERANCE)


def proven(family: str, head: str) -> dict[str, str]:
    """Prove it all.

    Returns:
        A row of the table in docs/models.md.
    """
    model: Any = model_of(family, head)
    captured_is_what_stands_there(model)
    how = sites_add_up(model)
    an_idle_edit_changes_no_bit(model)
    padding_changes_nothing(model)
    path = reference.BLOCKS[family]
    places = {part: resolve(model, Site(0, part)) for part in COMPONENTS}
    below = {part: place.path.removeprefix(f"{path}.0").removeprefix(".") for part, place in places.items()}
    return {
        "class": type(model).__name__,
        **{part: f"`{name}`" for part, name in below.items() if name},
        "adds up": how,
    }
