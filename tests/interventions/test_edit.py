"""An edit changes what lies in its ranges at its positions, during the block, and nothing else, ever."""

from __future__ import annotations

import pytest
import torch

from neuronlens.activations.capture import capture
from neuronlens.activations.extract import collect_activations
from neuronlens.checkpoint import load_checkpoint
from neuronlens.errors import NeuronLensError, SiteError, UserError
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Intervention, Joint, LinearErasure
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.sites import COMPONENTS, Site, site_width
from tests.conftest import hooks, sentences
from tests.interventions.edits import INF, batch_of, between, of_neurons
from tests.models import CLASSIFIERS, FAMILIES, LANGUAGE_MODELS, LAYERS
from tests.reference import BLOCKS, hooked

SITES = [Site(layer, component) for layer in range(LAYERS) for component in COMPONENTS]


@torch.inference_mode()
@pytest.mark.parametrize("operator", ["zero", "complement_mean", "dampen", "transport", "steer:-2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_that_never_applies_changes_no_bit(checkpoints, family, operator):
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    plain = checkpoint.model(**inputs).logits
    for site in SITES:
        for item in (
            between(checkpoint.config, site, INF, -INF, operator=operator),
            between(checkpoint.config, site, 1e30, 2e30, operator=operator),
            between(checkpoint.config, site, -INF, INF, operator=operator, positions="generated"),
            of_neurons(site, torch.empty(0, dtype=torch.long), torch.empty(0, 1), torch.empty(0, 1), operator=operator),
        ):
            with edit(checkpoint.model, item) as (dose,):
                assert torch.equal(checkpoint.model(**inputs).logits, plain), site
            assert dose.changed.tolist() == [0] * 4
            assert dose.calls == 1


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_before_afterwards(checkpoints, family):
    checkpoint = checkpoints(family)
    model, inputs = checkpoint.model, batch_of(checkpoint)
    plain, weights = model(**inputs).logits, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edits = [between(checkpoint.config, site, -INF, INF) for site in SITES]
    with edit(model, edits):
        assert hooks(model) > 0
        assert not torch.equal(model(**inputs).logits, plain)
    assert hooks(model) == 0
    assert torch.equal(model(**inputs).logits, plain)
    with pytest.raises(KeyError), edit(model, edits):
        model(**inputs)
        raise KeyError
    assert hooks(model) == 0
    assert torch.equal(model(**inputs).logits, plain)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@torch.inference_mode()
@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_is_the_torch_where_it_stands_for(checkpoints, family, site):
    """Against a hook written by hand, at all positions that are no padding."""
    checkpoint = checkpoints(family)
    inputs = batch_of(checkpoint)
    real = inputs["attention_mask"].bool()[..., None]
    every_second = torch.arange(site_width(checkpoint.config, site)) % 2 == 0

    def change(hidden):
        return torch.where(every_second & real & (hidden >= -0.3) & (hidden <= 0.8), torch.zeros(()), hidden)

    with hooked(checkpoint.model, family, site.layer, site.component, change):
        expected = checkpoint.model(**inputs).logits
    with edit(checkpoint.model, between(checkpoint.config, site, -0.3, 0.8)):
        found = checkpoint.model(**inputs).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found, checkpoint.model(**inputs).logits)


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["last", "pooled", "prompt", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_positions_name_the_same_tokens_on_either_side_of_padding(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    item = between(checkpoint.config, Site(1, "mlp_post"), -INF, INF, positions=positions)
    inputs = batch_of(checkpoint)
    with edit(checkpoint.model, item) as (dose,):
        padded = checkpoint.model(
            **inputs
            | (
                {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}
                if family in LANGUAGE_MODELS
                else {}
            )
        ).logits
        looked_at = dose.looked_at.tolist()
    for row, text in enumerate(sentences(4)):
        alone = checkpoint.tokenizer([text], return_tensors="pt")
        with edit(checkpoint.model, item) as (dose,):
            logits = checkpoint.model(**alone).logits[0]
        assert dose.looked_at.tolist() == [looked_at[row]]
        expected = logits if family in CLASSIFIERS else logits[-1]
        found = padded[row] if family in CLASSIFIERS else padded[row, -1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@torch.inference_mode()
def test_what_the_policies_name(checkpoints):
    """Of a row with 2 paddings, 4 real tokens: columns 2 to 5."""
    for family, pooled in (("gpt2", [5]), ("bert", [2])):
        checkpoint = checkpoints(family)
        ids = torch.tensor([[0, 0, 7, 8, 9, 10]])
        mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
        columns = {"all": [2, 3, 4, 5], "prompt": [2, 3, 4, 5], "last": [5], "generated": [], "pooled": pooled}
        for positions, expected in columns.items():
            item = between(checkpoint.config, Site(0, "resid_post"), -INF, INF, positions=positions)
            whole = []
            block = checkpoint.model.get_submodule(BLOCKS[family])[1]
            handle = block.register_forward_pre_hook(
                lambda _, args, kwargs, whole=whole: whole.append(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
            with edit(checkpoint.model, item):
                checkpoint.model(ids, attention_mask=mask)
            handle.remove()
            assert (whole[0][0, :, ::2] == 0).all(dim=1).nonzero().flatten().tolist() == expected, (family, positions)


@torch.inference_mode()
def test_mean_pooling_makes_pooled_mean_every_real_token(checkpoints):
    checkpoint = checkpoints("gpt2")
    inputs = batch_of(checkpoint)
    item = between(checkpoint.config, Site(1, "resid_post"), -INF, INF, positions="pooled", pooling="mean")
    with edit(checkpoint.model, item) as (dose,):
        checkpoint.model(**inputs)
    assert dose.looked_at.tolist() == (inputs["attention_mask"].sum(dim=1) * 8).tolist()


@torch.inference_mode()
def test_doses_count_what_was_changed(checkpoints):
    checkpoint = checkpoints("llama")
    inputs = batch_of(checkpoint)
    site = Site(1, "resid_post")
    seen = []
    with hooked(checkpoint.model, "llama", 1, "resid_post", lambda hidden: seen.append(hidden.clone())):
        checkpoint.model(**inputs)
    with edit(checkpoint.model, between(checkpoint.config, site, -0.5, 0.5)) as (dose,):
        checkpoint.model(**inputs)
    real = inputs["attention_mask"].bool()
    inside = (seen[0][..., ::2].abs() <= 0.5) & real[..., None]
    assert dose.changed.tolist() == inside.sum(dim=(1, 2)).tolist()
    assert dose.looked_at.tolist() == (real.sum(dim=1) * 8).tolist()
    assert 0 < dose.changed.sum() < dose.looked_at.sum()


@torch.inference_mode()
@pytest.mark.parametrize("family", ["bert", "gpt2", "gemma2"])
def test_edits_of_one_site_are_applied_in_order(checkpoints, family):
    """The second sees what the first left; nested blocks and a list are the same."""
    checkpoint = checkpoints(family)
    model, inputs, site = checkpoint.model, batch_of(checkpoint), Site(1, "resid_post")
    neurons = torch.arange(8)
    one = of_neurons(site, neurons, -INF, 0.0, operator="complement_mean", complement_mean=0.5)
    two = of_neurons(site, neurons, 0.5, 0.5, operator="complement_mean", complement_mean=-2.0)

    def captured(*contexts):
        with contexts[0] as _, capture(model, [site]) as found:
            model(**inputs)
        return found[site]

    together, reverse = captured(edit(model, [one, two])), captured(edit(model, [two, one]))
    with edit(model, one):
        nested = captured(edit(model, two))
    plain = captured(edit(model, []))[:, :8]
    assert torch.equal(together, nested)
    assert torch.equal(together[:, :8], torch.where(plain <= 0, -2.0, plain))
    assert torch.equal(reverse[:, :8], torch.where(plain <= 0, 0.5, plain))


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_model_keeps_its_dtype_and_exact_bounds(checkpoints, family):
    """One bound per neuron, a hair above or below the activation that is there; rounded to bfloat16 both would be equal to it."""
    checkpoint = load_checkpoint(checkpoints(family).path, dtype="bfloat16")
    inputs, site = batch_of(checkpoint, 1), Site(2, "resid_post")
    with capture(checkpoint.model, [site]) as plain:
        logits = checkpoint.model(**inputs).logits
    values = plain[site][0].float()
    above = values + values.abs() * 2.0**-14 + 1e-6
    assert torch.equal(above.to(torch.bfloat16), plain[site][0])
    neurons = torch.arange(16)
    with edit(checkpoint.model, of_neurons(site, neurons, above[:, None], INF, positions="pooled")) as (dose,):
        assert torch.equal(checkpoint.model(**inputs).logits, logits)
    assert dose.changed.tolist() == [0]
    with (
        edit(checkpoint.model, of_neurons(site, neurons, -INF, above[:, None], positions="pooled")) as (dose,),
        capture(checkpoint.model, [site]) as edited,
    ):
        assert checkpoint.model(**inputs).logits.dtype == torch.bfloat16
    assert dose.changed.tolist() == [16]
    assert torch.equal(edited[site], torch.zeros(1, 16, dtype=torch.bfloat16))


@torch.inference_mode()
def test_fitted_ranges_can_be_given_as_they_are(checkpoints, dataset):
    checkpoint = checkpoints("qwen2")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    ranges, inputs = fit_ranges(statistics, "sports", top=0.3, tau=2.0), batch_of(checkpoint)
    found = []
    for given in (ranges, [ranges], Intervention.of(ranges, "dampen", "all")):
        with edit(checkpoint.model, given, operator="dampen"):
            found.append(checkpoint.model(**inputs).logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], checkpoint.model(**inputs).logits)
    with edit(checkpoint.model, ranges):
        zeroed = checkpoint.model(**inputs).logits
    assert not torch.equal(found[0], zeroed), "the operator is the one that was asked for"


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["all", "pooled"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_linear_erasure_is_the_hook_it_stands_for(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    inputs, site = batch_of(checkpoint), Site(1, "resid_post")
    direction, probe, mean = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    tokens = inputs["attention_mask"].bool()
    if positions == "pooled":
        tokens = torch.zeros_like(tokens)
        tokens[:, 0 if family == "bert" else -1] = True

    def change(hidden):
        moved = hidden - ((hidden - mean) * probe).sum(-1, keepdim=True) * direction
        return torch.where(tokens[..., None], moved, hidden)

    with hooked(checkpoint.model, family, 1, "resid_post", change):
        expected = checkpoint.model(**inputs).logits
    plain = checkpoint.model(**inputs).logits
    item = LinearErasure(site, direction, probe, mean, positions=positions)
    with edit(checkpoint.model, item) as (dose,):
        torch.testing.assert_close(checkpoint.model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-3)
    assert dose.changed.tolist() == dose.looked_at.tolist() == (tokens.sum(dim=1) * 16).tolist()
    with edit(checkpoint.model, item.idle()):
        assert torch.equal(checkpoint.model(**inputs).logits, plain)


@torch.inference_mode()
def test_doses_of_a_gated_edit_count_what_passed(checkpoints):
    """Every neuron is looked at, whether its token passes or not."""
    checkpoint = checkpoints("llama")
    inputs, site = batch_of(checkpoint), Site(1, "resid_post")
    seen = []
    with hooked(checkpoint.model, "llama", 1, "resid_post", lambda hidden: seen.append(hidden.clone())):
        checkpoint.model(**inputs)
    evidence = torch.tensor([0.5, -0.25])[:, None, None].expand(2, 1, 8)
    with edit(
        checkpoint.model, between(checkpoint.config, site, -0.5, 0.5, evidence=evidence, threshold=torch.tensor([0.25]))
    ) as (dose,):
        checkpoint.model(**inputs)
    real = inputs["attention_mask"].bool()
    inside = seen[0][..., ::2].abs() <= 0.5
    # 8 neurons, k of them in range: 0.5 k - 0.25 (8 - k) >= 0.25 from k = 3 on
    passed = real & (inside.sum(dim=-1) >= 3)
    assert 0 < passed.sum() < real.sum()
    assert dose.changed.tolist() == (inside & passed[..., None]).sum(dim=(1, 2)).tolist()
    assert dose.looked_at.tolist() == (real.sum(dim=1) * 8).tolist()


@torch.inference_mode()
def test_the_dose_of_several_sites_is_of_all_of_them(checkpoints):
    checkpoint = checkpoints("gpt2")
    inputs = batch_of(checkpoint)
    items = [between(checkpoint.config, site, -0.5, 0.5) for site in (Site(0, "resid_post"), Site(2, "mlp_post"))]
    counted = []
    with edit(checkpoint.model, items) as doses:
        checkpoint.model(**inputs)
        counted += [(dose.changed.tolist(), dose.looked_at.tolist()) for dose in doses]
    with edit(checkpoint.model, Joint.of(items)) as (dose,):
        for _ in range(2):  # each call counts anew
            checkpoint.model(**inputs)
            assert dose.changed.tolist() == [sum(both) for both in zip(counted[0][0], counted[1][0], strict=True)]
            assert dose.looked_at.tolist() == [sum(both) for both in zip(counted[0][1], counted[1][1], strict=True)]


def test_gradients_flow_through_an_edit(checkpoints):
    """Of what is left; what was set to zero gets none."""
    checkpoint = checkpoints("gpt2")
    embedded = checkpoint.model.get_input_embeddings()(torch.tensor([[5, 6, 7]])).clone().requires_grad_()
    with edit(checkpoint.model, between(checkpoint.config, Site(2, "resid_post"), -INF, INF)):
        checkpoint.model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    assert torch.isfinite(embedded.grad).all()


def test_a_site_that_does_not_exist_is_refused_before_any_hook(checkpoints):
    model = checkpoints("bert").model
    item = between(checkpoints("bert").config, Site(1, "resid_post"), -INF, INF)
    with (
        pytest.raises(SiteError, match="layer 9 does not exist"),
        edit(model, [item, between(model.config, Site(9, "resid_post"), 0, 1)]),
    ):
        pass
    assert hooks(model) == 0


def test_an_edit_that_is_passed_by_is_an_error(checkpoints):
    checkpoint = checkpoints("llama")
    block = checkpoint.model.model.layers[1]
    block.__dict__["forward"] = lambda hidden, *_, **__: hidden
    try:
        with (
            pytest.raises(NeuronLensError, match=r"site mlp_post\.1 fired 0 times in 1 forward calls"),
            edit(checkpoint.model, between(checkpoint.config, Site(1, "mlp_post"), -INF, INF)),
        ):
            checkpoint.model(**batch_of(checkpoint))
    finally:
        del block.__dict__["forward"]


def test_a_mask_of_other_shape_is_refused(checkpoints):
    checkpoint = checkpoints("gpt2")
    with (
        edit(checkpoint.model, between(checkpoint.config, Site(1, "resid_post"), -INF, INF)),
        pytest.raises(UserError, match=r"an attention mask of \[batch, tokens\]"),
    ):
        checkpoint.model(torch.tensor([[5, 6]]), attention_mask=torch.zeros(1, 1, 2, 2))
