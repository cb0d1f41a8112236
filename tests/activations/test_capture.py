"""What is captured is what stands there: at the right place, of the right token, and a copy of it."""

from __future__ import annotations

import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.capture import capture
from neuronlens.errors import NeuronLensError, SiteError, UserError
from neuronlens.interventions.edit import edit
from neuronlens.sites import COMPONENTS, Site, site_width
from tests.conftest import hooks, sentences
from tests.interventions.edits import of_neurons
from tests.models import CLASSIFIERS, FAMILIES, HIDDEN, INNER, LANGUAGE_MODELS, LAYERS
from tests.reference import BLOCKS, DOWN

FINAL_NORM = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"} | dict.fromkeys(
    ("llama", "qwen2", "gemma2"), "model.norm"
)
SITES = [Site(layer, component) for layer in range(LAYERS) for component in COMPONENTS]


def batch_of(checkpoint, count=4, side="right"):
    encoded = checkpoint.tokenizer(sentences(count))["input_ids"]
    batch = collate(encoded, range(count), pad_id=0, device="cpu", side=side)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return inputs if checkpoint.kind == "classifier" else {**inputs, "position_ids": batch.position_ids}


def stand_for_rows(checkpoint, hidden, mask):
    """Pooling by hand: the first token of encoders, the last real one of decoders, in a right-padded batch."""
    last = mask.sum(dim=1) - 1 if checkpoint.kind == "language_model" else torch.zeros(len(mask), dtype=torch.long)
    return hidden[torch.arange(len(mask)), last]


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_resid_post_is_what_the_next_block_reads(checkpoints, family):
    """Read at the next block's entrance; behind the last block at the final norm's, or what the encoder hands over."""
    checkpoint = checkpoints(family)
    model, inputs = checkpoint.model, batch_of(checkpoint)
    entered = []

    def note(_, args, kwargs):
        entered.append((args[0] if args else kwargs["hidden_states"]).clone())

    readers = [*model.get_submodule(BLOCKS[family])[1:]]
    if family in FINAL_NORM:
        readers.append(model.get_submodule(FINAL_NORM[family]))
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in readers]
    with capture(model, [Site(layer, "resid_post") for layer in range(LAYERS)]) as captured:
        model(**inputs)
    for handle in handles:
        handle.remove()
    if family in CLASSIFIERS:
        entered.append(model.base_model(**inputs)[0])
    assert len(entered) == LAYERS
    for layer, hidden in enumerate(entered):
        found = captured[Site(layer, "resid_post")]
        assert found.shape == (4, HIDDEN)
        assert torch.equal(found, stand_for_rows(checkpoint, hidden, inputs["attention_mask"])), layer


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_mlp_post_is_what_the_down_projection_reads(checkpoints, family):
    checkpoint = checkpoints(family)
    model, inputs = checkpoint.model, batch_of(checkpoint)
    read = []
    handles = [
        block.get_submodule(DOWN[family]).register_forward_pre_hook(lambda _, args: read.append(args[0].clone()))
        for block in model.get_submodule(BLOCKS[family])
    ]
    with capture(model, [Site(layer, "mlp_post") for layer in range(LAYERS)]) as captured:
        model(**inputs)
    for handle in handles:
        handle.remove()
    for layer, hidden in enumerate(read):
        found = captured[Site(layer, "mlp_post")]
        assert found.shape == (4, INNER)
        assert torch.equal(found, stand_for_rows(checkpoint, hidden, inputs["attention_mask"])), layer


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_the_neuron_of_a_gated_mlp_is_gate_times_up(checkpoints, family):
    """Not the activation function's output, which is the gate alone."""
    checkpoint = checkpoints(family)
    mlp = checkpoint.model.model.layers[1].mlp
    read = []
    handle = mlp.register_forward_pre_hook(lambda _, args: read.append(args[0].clone()))
    inputs = batch_of(checkpoint)
    with capture(checkpoint.model, ["mlp_post.1"]) as captured:
        checkpoint.model(**inputs)
    handle.remove()
    neurons = mlp.act_fn(mlp.gate_proj(read[0])) * mlp.up_proj(read[0])
    expected = stand_for_rows(checkpoint, neurons, inputs["attention_mask"])
    torch.testing.assert_close(captured[Site(1, "mlp_post")], expected)


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@pytest.mark.parametrize("pooling", ["auto", "first", "mean", "max"])
def test_padding_changes_no_pooled_activation_of_a_decoder(checkpoints, family, pooling):
    checkpoint = checkpoints(family)
    found = {}
    for side in ("left", "right"):
        with capture(checkpoint.model, SITES, pooling) as captured:
            checkpoint.model(**batch_of(checkpoint, side=side))
        found[side] = captured
    for row, text in enumerate(sentences(4)):
        ids = torch.tensor([checkpoint.tokenizer(text)["input_ids"]])
        with capture(checkpoint.model, SITES, pooling) as alone:
            checkpoint.model(ids)
        for site in SITES:
            for side in ("left", "right"):
                torch.testing.assert_close(found[side][site][row], alone[site][0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("pooling", ["auto", "last", "mean", "max"])
def test_padding_changes_no_pooled_activation_of_an_encoder(checkpoints, family, pooling):
    checkpoint = checkpoints(family)
    texts = sentences(4)
    with capture(checkpoint.model, SITES, pooling) as padded:
        checkpoint.model(**checkpoint.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt"))
    for row, text in enumerate(texts):
        with capture(checkpoint.model, SITES, pooling) as alone:
            checkpoint.model(**checkpoint.tokenizer([text], return_tensors="pt"))
        for site in SITES:
            torch.testing.assert_close(padded[site][row], alone[site][0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_poolings_by_hand(checkpoints):
    checkpoint = checkpoints("gpt2")
    inputs = batch_of(checkpoint, side="left")
    whole = []
    handle = checkpoint.model.transformer.h[1].register_forward_hook(lambda _, __, out: whole.append(out))
    found, position = {}, {}
    for pooling in ("first", "last", "mean", "max"):
        with capture(checkpoint.model, ["resid_post.1"], pooling) as captured:
            checkpoint.model(**inputs)
        found[pooling], position[pooling] = captured[Site(1, "resid_post")], captured.position.tolist()
    handle.remove()
    hidden = whole[0][0] if isinstance(whole[0], tuple) else whole[0]
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        real = hidden[row, mask]
        torch.testing.assert_close(found["first"][row], real[0])
        torch.testing.assert_close(found["last"][row], real[-1])
        torch.testing.assert_close(found["mean"][row], real.mean(dim=0))
        torch.testing.assert_close(found["max"][row], real.amax(dim=0))
    width = inputs["input_ids"].shape[1]
    assert position["last"] == [width - 1] * 4
    assert position["first"] == [width - int(mask.sum()) for mask in inputs["attention_mask"]]
    assert position["mean"] == position["max"] == [-1] * 4


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_capture_is_a_copy(checkpoints, family):
    """Writing into it, or calling the model again, changes nothing elsewhere."""
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    plain = checkpoint.model(**inputs).logits
    with capture(checkpoint.model, SITES) as captured:
        checkpoint.model(**inputs)
        first = dict(captured)
        kept = {site: values.clone() for site, values in first.items()}
        checkpoint.model(**{name: tensor.flip(0) for name, tensor in inputs.items()})
    for site in SITES:
        assert torch.equal(first[site], kept[site])
        assert torch.equal(captured[site], kept[site].flip(0)) or torch.allclose(captured[site], kept[site].flip(0))
        assert captured[site].untyped_storage().nbytes() == captured[site].nbytes, (
            "a view keeps the layer's whole output"
        )
        captured[site].fill_(1e6)
    assert torch.equal(checkpoint.model(**inputs).logits, plain)


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_capturing_changes_no_logit(checkpoints, family):
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    plain = checkpoint.model(**inputs).logits
    with capture(checkpoint.model, SITES):
        assert torch.equal(checkpoint.model(**inputs).logits, plain)


@torch.inference_mode()
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_capture_sees_the_edit_opened_before_it(checkpoints, family, component):
    """Layers before the edit are untouched, its own is exactly edited, and what lies behind is moved."""
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    site = Site(1, component)
    neurons = torch.arange(1, site_width(checkpoint.config, site), 2)
    lower, upper = torch.full((len(neurons), 1), -0.7), torch.full((len(neurons), 1), 0.9)
    with capture(checkpoint.model, SITES) as plain:
        checkpoint.model(**inputs)
    item = of_neurons(site, neurons, lower, upper)
    with edit(checkpoint.model, item), capture(checkpoint.model, SITES) as edited:
        checkpoint.model(**inputs)
    selected = torch.zeros(site_width(checkpoint.config, site), dtype=torch.bool)
    selected[neurons] = True
    inside = selected & (plain[site] >= -0.7) & (plain[site] <= 0.9)
    assert inside.any()
    assert torch.equal(edited[site], torch.where(inside, 0.0, plain[site]))
    for other in SITES:
        # GPT-NeoX has attention and MLP side by side
        beside = family == "gpt_neox" and component == "attn_out" and other.layer == 1 and "mlp" in other.component
        if other < site or beside:
            assert torch.equal(edited[other], plain[other]), other
        elif other != site:
            assert not torch.equal(edited[other], plain[other]), other


def test_each_hook_fires_once_a_call(checkpoints):
    checkpoint = checkpoints("bert")
    with capture(checkpoint.model, ["resid_post.0", "mlp_post.2"]) as captured:
        for _ in range(3):
            checkpoint.model(**batch_of(checkpoint))
    assert captured.calls == {Site(0, "resid_post"): 3, Site(2, "mlp_post"): 3}


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_site_that_is_passed_by_is_an_error(checkpoints, family):
    checkpoint = checkpoints(family)
    block = checkpoint.model.get_submodule(BLOCKS[family])[1]
    block.__dict__["forward"] = lambda hidden, *_, **__: hidden
    try:
        with (
            pytest.raises(NeuronLensError, match=r"site mlp_post\.1 fired 0 times in 1 forward calls"),
            capture(checkpoint.model, ["mlp_post.1"]),
        ):
            checkpoint.model(**batch_of(checkpoint))
    finally:
        del block.__dict__["forward"]


def test_a_width_other_than_the_configs_is_an_error(checkpoints, monkeypatch):
    checkpoint = checkpoints("llama")
    monkeypatch.setattr(checkpoint.model.config, "intermediate_size", INNER + 1)
    with (
        pytest.raises(NeuronLensError, match=r"mlp_post\.0 gave shape .*24\), the config says \[batch, tokens, 25\]"),
        capture(checkpoint.model, ["mlp_post.0"]),
    ):
        checkpoint.model(**batch_of(checkpoint))


def test_a_layer_that_does_not_exist_is_an_error(checkpoints):
    model = checkpoints("gpt2").model
    with pytest.raises(SiteError, match=r"layer 3 does not exist.*layers 0 to 2"), capture(model, ["resid_post.3"]):
        pass
    with pytest.raises(SiteError, match="Did you mean 'resid_post'"), capture(model, ["resid_pots.1"]):
        pass


def test_an_exception_inside_takes_the_hooks_away(checkpoints):
    model = checkpoints("gemma2").model
    with pytest.raises(KeyError), capture(model, SITES):
        assert hooks(model) > 0
        raise KeyError
    assert hooks(model) == 0


def test_a_compiled_model_is_refused(checkpoints):
    """Hooks added to it would have no effect and give no warning."""
    compiled = torch.compile(checkpoints("gpt2").model, backend="eager")
    with pytest.raises(UserError, match="no effect on a compiled model"), capture(compiled, ["resid_post.1"]):
        pass


@torch.inference_mode()
@pytest.mark.parametrize("pooling", ["last", "first", "mean", "max"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_capture_around_generate_reads_on(checkpoints, pooling, use_cache):
    """Under a cache the model sees one token at a time; the capture must not look for the prompt in it."""
    checkpoint = checkpoints("gpt2")
    inputs = batch_of(checkpoint, side="left")
    inputs.pop("position_ids")
    with capture(checkpoint.model, ["resid_post.1"], pooling) as captured:
        checkpoint.model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, use_cache=use_cache)
    assert captured.calls == {Site(1, "resid_post"): 3}
    assert captured[Site(1, "resid_post")].shape == (4, HIDDEN)
