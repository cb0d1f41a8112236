"""The work that is foretold is the work that is done: multiplications of matrices are counted as they run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neuronlens.activations.readout import has_vocabulary
from neuronlens.evaluation.cost import Route, Shape, deciding_route, joint_route, text_route
from neuronlens.evaluation.deciding import Unedited, deciding_passes
from neuronlens.evaluation.text import text_losses
from neuronlens.sites import COMPONENTS, Site
from tests import reference
from tests.evaluation.edits import half
from tests.evaluation.short_cuts import ragged
from tests.models import FAMILIES, LANGUAGE_MODELS, LAYERS

SITES = [Site(layer, component) for layer in range(LAYERS) for component in COMPONENTS]


def counted(work):
    """Multiplications and additions of matrix products."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def one_length(checkpoint, rows):
    """A batch without padding, which no plan counts."""
    batch = ragged(checkpoint, rows=rows)
    width = int(batch.attention_mask.sum(dim=1).min())
    return type(batch)(
        batch.rows, *(part[:, :width] for part in (batch.input_ids, batch.attention_mask, batch.position_ids))
    )


@pytest.fixture
def wide(checkpoints):
    """Checkpoints whose matrices are large beside what attention does between tokens."""

    def make(family, head=None):
        names = {
            "distilbert": {"dim": 64, "hidden_dim": 96},
            "gpt2": {"n_embd": 64, "n_inner": 96},
            "opt": {"hidden_size": 64, "ffn_dim": 96, "word_embed_proj_dim": 64},
            "bloom": {"hidden_size": 64},
        }
        sizes = names.get(family, {"hidden_size": 64, "intermediate_size": 96})
        if family in ("gemma2", "gemma3_text", "qwen3"):
            sizes = sizes | {"head_dim": 32}
        return checkpoints(family, **sizes, **({"head": head} if head else {}))

    return make


def measured(checkpoint):
    """A model, a batch of it, their shape, and the work of a token in the blocks."""
    model, batch = checkpoint.model, one_length(checkpoint, 4)
    rows, tokens = len(batch), batch.input_ids.numel()
    body = counted(lambda: model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask))
    return model, batch, Shape.of(checkpoint, tokens / rows), body / tokens


@torch.inference_mode()
@pytest.mark.parametrize(
    ("family", "head"),
    [
        *((family, None) for family in (*FAMILIES, "opt", "bloom", "modernbert", "phi3")),
        *((family, "classifier") for family in ("llama", "gpt2", "opt")),
    ],
)
def test_the_work_of_rows(wide, family, head):
    model, batch, shape, body = measured(wide(family, head))
    rows, tokens = len(batch), batch.input_ids.numel()
    for site in SITES:
        for count in (1, 4):
            edits = [half(model.config, site)] * count
            unedited = Unedited.of(model, edits, batch)
            done = counted(lambda given=(edits, batch, unedited): [*deciding_passes(model, *given)])
            heads = 1  # of the unedited model
            if not has_vocabulary(
                model
            ):  # their heads, small as they are, also run where only their entrance is wanted
                heads += shape.starts_within(site) + (0 if site == Site(LAYERS - 1, "resid_post") else count)
            expected = deciding_route(shape, site).work(count, rows, tokens) + heads * shape.head * rows
            assert done / body == pytest.approx(expected, rel=0.12, abs=0.02 * tokens), (site, count)


@torch.inference_mode()
@pytest.mark.parametrize("family", [*LANGUAGE_MODELS, "opt", "olmo2"])
def test_the_work_of_text(wide, family):
    model, batch, shape, body = measured(wide(family))
    rows, tokens = len(batch), batch.input_ids.numel()
    unedited = counted(lambda: [*text_losses(model, [], batch)])
    for site in SITES:
        item = half(model.config, site)
        done = counted(lambda item=item: [*text_losses(model, [item, item], batch)]) - unedited
        route = text_route(shape, site, 64, [0.5])
        if site == Site(
            LAYERS - 1, "resid_post"
        ):  # columns are multiplied into a buffer, which the counter does not see
            assert done / body < route.work(2, rows, tokens)
        else:
            assert done / body == pytest.approx(route.work(2, rows, tokens), rel=0.12, abs=0.05 * tokens), site


# block -> projections of a block that another token is looked at through, of its MLP's last one, and of what stands behind its attention
PARTS = {
    "llama": (("self_attn.k_proj", "self_attn.v_proj"), "mlp.down_proj", None),
    "qwen2": (("self_attn.k_proj", "self_attn.v_proj"), "mlp.down_proj", None),
    "bert": (("attention.self.key", "attention.self.value"), "output.dense", "attention.output.dense"),
    "phi3": (("self_attn.qkv_proj",), "mlp.down_proj", None),  # whose queries cannot be left out
}


@pytest.mark.parametrize("tokens", [1, 500])
@pytest.mark.parametrize("family", [*PARTS, "gpt2"])
def test_a_shape_counts_weights_and_what_attention_multiplies_between_tokens(checkpoints, family, tokens):
    """A token of a decoder looks at half of the others in the mean, one of an encoder at all: once for scores, once for values."""
    checkpoint = checkpoints(family)
    model, hidden = checkpoint.model, checkpoint.config.hidden_size
    block = model.get_submodule(reference.BLOCKS[family])[LAYERS - 1]

    def weights(name):
        return block.get_submodule(name).weight.numel()

    between = tokens * hidden * (2 if family == "bert" else 1)
    whole = LAYERS * (sum(part.numel() for part in block.parameters() if part.dim() > 1) + between)
    if family == "gpt2":  # queries, keys and values in one matrix
        looked_at, down, out = weights("attn.c_attn") * 2 / 3, weights("mlp.c_proj"), 0
    else:
        names, down, out = PARTS[family]
        looked_at, down, out = sum(map(weights, names)), weights(down), 0 if out is None else weights(out)
    ends = [model.bert.pooler.dense, model.classifier] if family == "bert" else [model.lm_head]
    head = sum(end.weight.numel() for end in ends)
    found = Shape.of(checkpoint, tokens)
    assert (found.layers, found.within, found.one_token) == (LAYERS, True, True)
    parts = (found.entrance, found.down, found.head, found.out)
    assert parts == pytest.approx(tuple(part / whole for part in (looked_at + between, down, head, out)))


def test_the_last_block_costs_all_where_one_token_does_not_decide_or_its_parts_are_not_known(checkpoints):
    mean = Shape.of(checkpoints("modernbert", classifier_pooling="mean"), 7)
    assert (mean.entrance, mean.one_token, mean.within) == (pytest.approx(1 / LAYERS), False, True)
    assert 0 < mean.down < 1 / LAYERS
    unknown = Shape.of(checkpoints("opt"), 7)
    assert (unknown.layers, unknown.entrance, unknown.down, unknown.out) == (LAYERS, 1 / LAYERS, 0.0, 0.0)
    assert (unknown.within, unknown.one_token) == (False, True)


def test_an_edit_costs_the_blocks_behind_it():
    shape = Shape(layers=12, entrance=1 / 72, down=1 / 36, head=0.45)
    assert deciding_route(shape, Site(0, "resid_post")).token == pytest.approx(10 / 12 + 1 / 72)
    assert deciding_route(shape, Site(10, "resid_post")).token == pytest.approx(1 / 72)
    assert deciding_route(shape, Site(11, "resid_post")) == Route("one vector a row, from the last block on", 0, 0.45)
    assert deciding_route(shape, Site(6, "mlp_post")).token == pytest.approx(4 / 12 + 1 / 72 + 1 / 36)
    assert deciding_route(shape, Site(6, "resid_post"), shared=0.75).token == pytest.approx((4 / 12 + 1 / 72) / 4)
    assert deciding_route(shape, Site(6, "resid_post"), device="cuda", batch=1024).together == 16
    assert deciding_route(shape, Site(11, "resid_post"), some_logits=True).row == 0


def test_ways_have_names():
    """Of a decoder, of a model whose last block cannot follow one token, and of one whose parts are not known."""
    decoder = Shape(layers=12, entrance=1 / 72, down=1 / 36, head=0.45)
    whole = replace(decoder, entrance=1 / 12, one_token=False)
    unknown = replace(whole, down=0.0, within=False)
    last = ", of the last what one token needs"

    def name(shape, layer, component, **how):
        return deciding_route(shape, Site(layer, component), **how).name

    assert name(decoder, 11, "resid_post") == "one vector a row, from the last block on"
    assert name(decoder, 11, "mlp_post") == "one vector a row, from the last block's neurons on"
    assert name(decoder, 11, "mlp_out") == "the projection of the last block's neurons"
    assert name(decoder, 6, "resid_post") == f"blocks 7 to 11{last}"
    assert name(decoder, 10, "resid_post") == f"block 11{last}"
    assert name(decoder, 9, "resid_post") == f"blocks 10 to 11{last}"
    assert name(decoder, 6, "mlp_post") == f"the neurons' projection, blocks 7 to 11{last}"
    assert name(decoder, 10, "mlp_out") == f"the neurons' projection, block 11{last}"
    prompt = "; the shared prompt (75% of the tokens) once an edit"
    assert name(decoder, 6, "resid_post", shared=0.75) == f"blocks 7 to 11{last}{prompt}"
    assert name(decoder, 6, "mlp_post", shared=0.75) == f"the neurons' projection, blocks 7 to 11{last}{prompt}"
    assert name(decoder, 6, "resid_post", device="cuda") == f"blocks 7 to 11{last}; 16 edits a call"
    assert name(decoder, 6, "resid_post", device="cuda", batch=1025) == f"blocks 7 to 11{last}; 15 edits a call"
    assert name(decoder, 6, "resid_post", device="cuda", batch=8192) == f"blocks 7 to 11{last}; 2 edits a call"
    assert name(decoder, 6, "resid_post", device="cuda", batch=8193) == f"blocks 7 to 11{last}"
    assert name(whole, 11, "resid_post") == "the head"
    assert name(whole, 11, "mlp_post") == "the projection of the last block's neurons"
    assert name(whole, 6, "resid_post") == "blocks 7 to 11"
    assert name(unknown, 11, "mlp_post") == "the last block"
    assert name(unknown, 6, "mlp_post") == "blocks 6 to 11"
    shared = deciding_route(decoder, Site(6, "resid_post"), shared=0.5, device="cuda")
    assert shared.together == 1, "a prompt that is run once leaves rows that are too short to be put together"
    stacked = deciding_route(whole, Site(11, "mlp_post"), device="cuda")
    assert (stacked.together, stacked.name) == (16, "the projection of the last block's neurons; 16 edits a call")


def test_edits_of_several_sites_run_whole_what_lies_behind_the_first():
    decoder = Shape(layers=12, entrance=1 / 72, down=1 / 36, head=0.45, out=1 / 100)
    unknown = replace(decoder, within=False)
    known = {
        Site(6, "resid_post"): ("at most blocks 7 on", 5 / 12, 0.0),
        Site(11, "resid_post"): ("the last block", 0.0, 0.0),
        Site(6, "mlp_post"): ("at most the neurons' projection of block 6 on", 5 / 12 + 1 / 36 + 1 / 100, 1 / 12),
    }
    for site, (name, token, once) in known.items():
        found = joint_route(decoder, site)
        assert (found.name, found.row, found.once) == (name, 0.45, once)
        assert found.token == pytest.approx(token)
        assert joint_route(decoder, Site(site.layer, f"sae_{site.component}")) == found, (
            "latents are edited where they are read"
        )
    found = joint_route(unknown, Site(6, "mlp_post"))
    assert (found.name, found.token, found.once) == ("at most blocks 6 on", pytest.approx(6 / 12), 0.0)


def test_text_costs_the_head_or_some_of_its_columns():
    shape = Shape(layers=12, entrance=1 / 72, down=1 / 36, head=0.45)
    assert text_route(shape, Site(11, "resid_post"), 768, [1.0]).token == pytest.approx(0.45)
    assert text_route(shape, Site(11, "resid_post"), 768, [0.3, 1.0]).token == pytest.approx(0.45 * (232 / 768 + 1) / 2)
    assert text_route(shape, Site(5, "resid_post"), 768, [0.3]).token == pytest.approx(0.5 + 0.45)


def test_ways_of_text_have_names():
    shape = Shape(layers=12, entrance=1 / 72, down=1 / 36, head=0.45, out=1 / 100)
    unknown = replace(shape, within=False)

    def told(site, shares=(0.3,), shape=shape):
        route = text_route(shape, site, 768, shares)
        return route.name, route.row

    assert told(Site(11, "resid_post")) == ("the head's columns of the edited neurons", 0)
    assert told(Site(11, "resid_post"), [1.0]) == ("the head", 0)
    assert told(Site(11, "sae_resid_post")) == ("the head", 0), "a latent moves all coordinates"
    assert text_route(shape, Site(11, "sae_resid_post"), 768, [0.3]).token == pytest.approx(0.45)
    assert told(Site(6, "resid_post")) == ("blocks 7 on, and the head", 0)
    assert told(Site(6, "mlp_post")) == ("the neurons' projection of block 6 on, and the head", 0)
    assert told(Site(6, "mlp_post"), shape=unknown) == ("blocks 6 on, and the head", 0)


def test_work_adds_up():
    route = Route("", token=0.5, row=2, once=0.25)
    assert route.work(3, 10, 100) == 3 * (50 + 20) + 25
    assert route.work(0, 10, 100) == 0
