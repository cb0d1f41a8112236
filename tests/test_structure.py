"""Models whose family is not in the table: what is found by structure is right, what is not found is refused, and it can be told."""

from __future__ import annotations

import json
import logging
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from neuronlens import structure
from neuronlens.activations.batching import collate
from neuronlens.activations.capture import capture
from neuronlens.checkpoint import identify_checkpoint, load_checkpoint
from neuronlens.config import CheckpointParams
from neuronlens.errors import CheckpointError, ConfigError, SiteError
from neuronlens.params import load_config
from neuronlens.sites import COMPONENTS, Site, family_of, layer_count, module_below_block, site_width
from neuronlens.stages import STAGES, run_stage
from neuronlens.structure import differences, doubts, hold
from tests import proofs
from tests.conftest import labelled
from tests.evaluation.edits import half
from tests.evaluation.short_cuts import logits_like_those_of_whole_passes
from tests.models import HIDDEN, INNER, LAYERS, random_model, save_checkpoint, with_random_gains

# model type -> (settings, blocks, attention module, down projection), read off the stock classes by hand
UNKNOWN = {
    "stablelm": ({}, "model.layers", "self_attn", "mlp.down_proj"),
    "phi": ({}, "model.layers", "self_attn", "mlp.fc2"),
    "starcoder2": ({}, "model.layers", "self_attn", "mlp.c_proj"),
    "gpt_neo": ({"attention_types": [[["global", "local", "global"], 1]]}, "transformer.h", "attn", "mlp.c_proj"),
    "falcon": ({"ffn_hidden_size": INNER}, "transformer.h", "self_attention", "mlp.dense_4h_to_h"),
    "cohere": ({}, "model.layers", "self_attn", "mlp.down_proj"),
    "gptj": ({"n_inner": INNER, "rotary_dim": 4}, "transformer.h", "attn", "mlp.fc_out"),
    "biogpt": ({}, "biogpt.layers", "self_attn", "fc2"),
    "xlm-roberta": ({}, "roberta.encoder.layer", "attention.output.dense", "output.dense"),
    "deberta": ({}, "deberta.encoder.layer", "attention.output.dense", "output.dense"),
}
ENCODERS = ("xlm-roberta", "deberta")
SITES = [Site(layer, component) for layer in range(LAYERS) for component in COMPONENTS]
TOLD = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}


@cache
def model_of(name, head=None):
    usual = "classifier" if name in ENCODERS else "language_model"
    return with_random_gains(random_model(name, head=head or usual, **UNKNOWN[name][0]))


def batch_of(side="right"):
    return collate(proofs.ROWS, range(2), pad_id=proofs.PAD, device="cpu", side=side)


@torch.inference_mode()
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_guessed_is_what_the_stock_modules_give(name):
    """By the sites' arithmetic, on every token of a row: sums, and norms behind them, of what own hooks have seen."""
    model, (_, path, attention, down) = model_of(name), UNKNOWN[name]
    seen: dict[tuple[str, int], torch.Tensor] = {}
    handles = []
    row = torch.tensor([proofs.ROWS[0]])
    for layer, block in enumerate(model.get_submodule(path)):

        def keep(what, layer=layer):
            def note(_, given, output=None):
                found = given if output is None else output
                found = found[0] if isinstance(found, tuple) else found
                seen[what, layer] = found.reshape(len(row[0]), -1).clone()

            return note

        handles += [
            block.register_forward_pre_hook(keep("entered")),
            block.register_forward_hook(keep("resid_post")),
            block.get_submodule(attention).register_forward_hook(keep("attn_out")),
            block.get_submodule(down).register_forward_pre_hook(keep("mlp_post")),
            block.get_submodule(down).register_forward_hook(keep("mlp_out")),
        ]
    model(row)
    for handle in handles:
        handle.remove()
    with capture(model, SITES) as found:
        found.wanted = torch.zeros(len(row[0]), dtype=torch.long), torch.arange(len(row[0]))
        model(row)
        tokens = dict(found.tokens)
    for site in SITES:
        assert tokens[site].shape[1] == site_width(model.config, site)
        assert torch.equal(tokens[site], seen[site.component, site.layer]), site
    for layer, block in enumerate(model.get_submodule(path)):
        before, middle, mlp, out = (seen[what, layer] for what in ("entered", "attn_out", "mlp_out", "resid_post"))
        if name in ENCODERS:
            made = block.output.LayerNorm(block.attention.output.LayerNorm(before + middle) + mlp)
        else:
            made = before + middle + mlp
        torch.testing.assert_close(made, out, rtol=1e-5, atol=1e-5)
    # a reader is told of norms behind sums
    assert [item.what[:12] for item in differences(model, family_of(model.config))] == ["a block does"] * (
        name in ENCODERS
    )


@torch.inference_mode()
@pytest.mark.parametrize("name", [*UNKNOWN, "phi classifier", "gpt_neo classifier"])
def test_edits_by_the_general_way_are_whole_passes(name):
    name, _, head = name.partition(" ")
    model = model_of(name, head or None)
    edits = [half(model.config, site, positions=positions) for site in SITES for positions in ("all", "pooled")]
    logits_like_those_of_whole_passes(model, edits, batch_of())
    proofs.an_idle_edit_changes_no_bit(model)
    proofs.padding_changes_nothing(model)


def test_what_is_guessed_is_said(caplog):
    with caplog.at_level(logging.WARNING, logger="neuronlens"):
        family = family_of(random_model("phi").config)
    [said] = caplog.messages
    assert said == family.guessed[0]
    assert said == (
        "model type 'phi' is not in docs/models.md; by its structure it has blocks layers, mlp_down mlp.fc2, attn_out self_attn.dense, "
        "mlp_out mlp.fc2, causal attention. Where that is wrong, set checkpoint.family"
    )


# ---- what is not found


def test_blocks_that_share_weights_are_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "model", "albert", head="classifier", embedding_size=8)
    with pytest.raises(
        SiteError, match=r"shows no list of its 3 blocks; the longest .* has 1, and blocks that are used"
    ):
        load_checkpoint(folder)


def test_experts_have_no_neurons_that_could_be_found():
    config = random_model("mixtral").config
    assert module_below_block(config, Site(0, "attn_out")) == "self_attn.o_proj"
    for component in ("mlp_post", "mlp_out"):
        with pytest.raises(
            SiteError, match=rf"site {component}\.0: the structure of model type 'mixtral' does not show"
        ):
            module_below_block(config, Site(0, component))


# ---- what is told


def exaone(tmp_path, **how):
    return load_checkpoint(save_checkpoint(tmp_path / "model", "exaone4"), **how)


def test_norms_behind_projections_must_be_told(tmp_path):
    """Structure shows the projection; that the block adds what the norm makes of it shows when the sums are tried."""
    guessed = exaone(tmp_path)
    assert doubts(guessed.model) == [guessed.family.guessed[0], differences(guessed.model, guessed.family)[0].what]
    told = exaone(tmp_path, family=TOLD)
    assert (told.family.attn_out, told.family.mlp_out) == tuple(TOLD.values())
    assert told.family.blocks == guessed.family.blocks
    assert told.family.mlp_down == guessed.family.mlp_down
    assert differences(told.model, told.family) == []
    assert "attn_out" not in told.family.guessed[0]


def test_all_that_can_be_told_leaves_nothing_to_say(tmp_path):
    whole = TOLD | {"blocks": "layers", "mlp_down": "mlp.down_proj", "decoder": True}
    checkpoint = exaone(tmp_path, family=whole | {"layers": "num_hidden_layers", "inner": "intermediate_size"})
    assert doubts(checkpoint.model) == []
    assert (layer_count(checkpoint.config), site_width(checkpoint.config, Site(0, "mlp_post"))) == (LAYERS, INNER)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"blocks": "h"}, r"checkpoint\.family\.blocks: the model has no list of modules 'h'\. It has: layers"),
        (
            {"mlp_down": "mlp.fc9"},
            r"checkpoint\.family\.mlp_down: a block has no 'mlp\.fc9'\. It has: .*mlp\.down_proj",
        ),
        ({"attn_out": "attn"}, r"checkpoint\.family\.attn_out: a block has no 'attn'\. It has: self_attn, "),
        ({"mlp_out": "norm"}, r"checkpoint\.family\.mlp_out: a block has no 'norm'"),
        ({"layers": "depth"}, r"checkpoint\.family\.layers: the config has no 'depth'"),
        ({"layers": "num_attention_heads"}, r"checkpoint\.family\.blocks: layers has 3 modules, the config says 4"),
        ({"inner": "n_inner"}, r"checkpoint\.family\.inner: the config has no 'n_inner'"),
        ({"inner": "hidden_size"}, r"checkpoint\.family\.inner: mlp\.down_proj takes 24 neurons, the config says 16"),
    ],
)
def test_what_is_told_is_held_against_the_model(tmp_path, told, message):
    for family in ("exaone4", "llama"):  # one that is guessed, and one of the table
        folder = save_checkpoint(tmp_path / family, family)
        given = {"blocks": "layers"} | told
        with pytest.raises(SiteError, match=message):
            load_checkpoint(folder, family=given)


def test_a_wrong_word_about_attention_is_found_out(tmp_path):
    folder = save_checkpoint(tmp_path / "model", "xlm-roberta", head="classifier", max_position_embeddings=66)
    with pytest.raises(
        CheckpointError, match=r"depend on the tokens behind it\. Set checkpoint\.family: \{decoder: false\}"
    ):
        _ = load_checkpoint(folder, family={"decoder": True}).model


def test_what_one_checkpoint_is_told_is_not_told_to_another(tmp_path):
    folder = save_checkpoint(tmp_path / "model", "exaone4")
    told, plain = load_checkpoint(folder, family=TOLD), load_checkpoint(folder)
    assert told.family.attn_out != plain.family.attn_out == "self_attn.o_proj"
    assert family_of(told.model.config) is told.family
    assert family_of(plain.model.config) is plain.family


def test_a_config_that_is_gone_is_forgotten():
    config = random_model("phi").config
    hold(config, family_of(config))
    key = id(config)
    assert key in structure._families._held
    del config
    assert key not in structure._families._held


def test_the_identity_is_had_without_a_guess(tmp_path, monkeypatch):
    folder = save_checkpoint(tmp_path / "model", "phi")
    monkeypatch.setattr("neuronlens.structure._guess", None)
    assert identify_checkpoint(CheckpointParams(path=str(folder)))[0] == "model"


def test_params_name_what_can_be_told():
    config = load_config(None, ["checkpoint.family={attn_out: norm, decoder: false}"])
    assert config.checkpoint.family.model_dump(exclude_none=True) == {"attn_out": "norm", "decoder": False}
    with pytest.raises(ConfigError, match=r"unknown key 'checkpoint\.family\.attn'\. Did you mean 'attn_out'\?"):
        load_config(None, ["checkpoint.family={attn: norm}"])


def test_an_audit_of_an_unknown_family_says_so(tmp_path):
    """From a checkpoint to the report, at all of its components; and so does one of weights that are of no use to it."""
    folder = save_checkpoint(tmp_path / "model", "xlm-roberta", head="classifier", max_position_embeddings=66)
    weights = load_file(folder / "model.safetensors") | {"another.weight": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rows = labelled()
    lines = [",".join(row) for row in zip(rows.text, rows.concept, rows.split, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label,split", *lines]))
    given = [
        f"checkpoint.path={folder}",
        f"dataset.path={tmp_path / 'data.csv'}",
        "fit.rows=all",
        "evaluate.bootstrap=100",
    ]
    given += ["extract.sites=[attn_out.0, mlp_post.1, mlp_out.2, resid_post.1]", "interventions.tuned=null"]
    config = load_config(None, [*given, "interventions.controls=[]", "evaluate.auxiliary=null"])
    for stage in STAGES:
        run_stage(stage, config, tmp_path / "audit")
    audit = json.loads((tmp_path / "audit" / "report" / "audit.json").read_text())
    assert [site["site"] for site in audit["sites"]] == ["attn_out.0", "mlp_post.1", "resid_post.1", "mlp_out.2"]
    assert [site["neurons"] for site in audit["sites"]] == [HIDDEN, INNER, HIDDEN, HIDDEN]
    trust = audit["trust"]
    assert [text.split(";")[0] for text in trust["warnings"][:3]] == [
        "the model has no place for 1 tensors of the weights, another.weight among them",
        "model type 'xlm-roberta' is not in docs/models.md",
        "a block does not give its input + attn_out + mlp_out: it has norms behind additions, or scales what it adds",
    ]
    assert trust["no_op_difference"] == 0
    assert trust["suffix_difference"] <= trust["suffix_tolerance"]
