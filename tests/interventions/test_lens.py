"""A lens: what it does, on which model it does it, and in which order several of them do."""

from __future__ import annotations

import pytest
import torch

import neuronlens
from neuronlens.activations.capture import capture
from neuronlens.errors import LensError, SiteError
from neuronlens.evaluation.stacked import Stacked
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Intervention, Joint, LinearErasure
from neuronlens.interventions.lens import Lens
from neuronlens.sites import Site
from tests.interventions.edits import INF, batch_of, between
from tests.models import HIDDEN, random_model, save_checkpoint

SITE = Site(1, "resid_post")
FAMILIES = ("gpt2", "llama", "bert")


def items(config):
    """An edit of every kind that a lens holds."""
    numbers = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(0))
    evidence = torch.tensor([0.5, -0.25])[:, None, None].expand(2, 1, HIDDEN // 2)
    plain = between(config, SITE, -1.0, 0.9, operator="complement_mean", complement_mean=0.5)
    return {
        "ranges": plain,
        "whole neurons": between(config, SITE, -INF, INF, operator="dampen:0.5", positions="last"),
        "gated": between(config, SITE, -1.0, 0.9, evidence=evidence, threshold=torch.tensor([0.25])),
        "erasure": LinearErasure(SITE, *numbers, positions="pooled", pooling="last"),
        "joint": Joint.of([plain, between(config, Site(0, "mlp_post"), 0.0, INF)]),
    }


def states(model, inputs, opened):
    """What leaves the last block, under an edit."""
    with torch.inference_mode(), opened, capture(model, ["resid_post.2"], "max") as found:
        model(**inputs)
        return found[Site(2, "resid_post")]


@pytest.mark.parametrize("kind", list(items(random_model("gpt2").config)))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_does_what_the_edit_does(checkpoints, family, kind, tmp_path):
    checkpoint = checkpoints(family)
    item = items(checkpoint.config)[kind]
    lens = Lens.of(item, checkpoint, concept="sports\x00é", method="tuned")
    lens.save(tmp_path / "a")
    read = Lens.load(tmp_path / "a")
    assert (read.concept, read.method, read.fingerprint) == ("sports\x00é", "tuned", checkpoint.fingerprint)
    assert (read.model_type, read.sites, read.version) == (family, lens.sites, lens.version)
    inputs, model = batch_of(checkpoint), checkpoint.model
    expected = states(model, inputs, edit(model, item))
    assert torch.equal(states(model, inputs, read.edit(checkpoint)), expected)
    assert torch.equal(states(model, inputs, edit(model, [read])), expected)
    assert not torch.equal(states(model, inputs, edit(model, [])), expected)


@pytest.mark.parametrize("kind", list(items(random_model("gpt2").config)))
def test_equal_lenses_are_equal_bytes(checkpoints, kind, tmp_path):
    checkpoint = checkpoints("gpt2")
    files = [tmp_path / name for name in "abc"]
    Lens.of(items(checkpoint.config)[kind], checkpoint, concept="a").save(files[0])
    Lens.of(items(checkpoint.config)[kind], checkpoint, concept="a").save(files[1])
    Lens.load(files[0]).save(files[2])
    assert len({file.read_bytes() for file in files}) == 1
    Lens.of(items(checkpoint.config)[kind], checkpoint, concept="b").save(files[1])
    assert files[0].read_bytes() != files[1].read_bytes()


def test_a_lens_is_of_one_checkpoint(checkpoints, tmp_path):
    own, other = checkpoints("gpt2"), checkpoints("gpt2", seed=1)
    lens = Lens.of(items(own.config)["ranges"], own, concept="a")
    refused = (
        f"the lens is of another checkpoint ({own.name}, {own.fingerprint[:8]}) than the model ({other.fingerprint[:8]}). "
        "Use it on that one, or say that any checkpoint will do: any_checkpoint=True, --any-checkpoint."
    )
    for attempt in (
        lambda: lens.edit(other),
        lambda: lens.edit(other.model),
        lambda: lens.edit(own.model, checkpoint=other),
        lambda: lens.edit(own.model, checkpoint=other.path),
        lambda: edit(other.model, [lens]),
    ):
        with pytest.raises(LensError) as caught, attempt():
            pass
        assert str(caught.value) == refused
    inputs = batch_of(other)
    plain = states(other.model, inputs, edit(other.model, []))
    changed = states(other.model, inputs, lens.edit(other, any_checkpoint=True))
    assert not torch.equal(plain, changed)
    assert torch.equal(changed, states(other.model, inputs, lens.edit(other.model, checkpoint=own)))


def test_a_model_that_does_not_say_where_it_comes_from_needs_somebody_who_does(checkpoints):
    checkpoint, model = checkpoints("gpt2"), random_model("gpt2")
    lens = Lens.of(items(checkpoint.config)["ranges"], checkpoint, concept="a")
    for place in ("", "owner/name"):
        model.name_or_path = place
        with pytest.raises(LensError) as caught, lens.edit(model):
            pass
        assert str(caught.value) == (
            "the model does not say which checkpoint it was loaded from. "
            "Pass what load_checkpoint returns, name the checkpoint, or say any_checkpoint=True."
        )
    del model.name_or_path
    with pytest.raises(LensError, match="the model does not say"), lens.edit(model):
        pass
    with lens.edit(model, checkpoint.path):
        pass
    with lens.edit(model, any_checkpoint=True):
        pass


def test_no_word_helps_where_shapes_do_not_fit(checkpoints):
    checkpoint = checkpoints("gpt2")
    lens = Lens.of(items(checkpoint.config)["ranges"], checkpoint, concept="a")
    wide = random_model("gpt2", n_embd=32)
    with pytest.raises(LensError) as caught, lens.edit(wide, any_checkpoint=True):
        pass
    assert str(caught.value) == (
        "the lens is of 16 neurons at resid_post.1, where the model has 32. Use it on a model of the same shape."
    )
    with (
        pytest.raises(SiteError, match=r"resid_post.1: layer 1 does not exist"),
        lens.edit(random_model("gpt2", n_layer=1), any_checkpoint=True),
    ):
        pass


def test_lenses_compose_site_by_site_then_as_given(checkpoints):
    checkpoint = checkpoints("llama")
    config, model, inputs = checkpoint.config, checkpoint.model, batch_of(checkpoint)

    def lens(site, lower, upper, new):
        moved = between(config, site, lower, upper, operator="complement_mean", complement_mean=new)
        return Lens.of(moved, checkpoint, concept="a")

    # the second of one site looks at what the first has left; the deeper site at what the shallower one has
    one, two, early = (
        lens(SITE, -INF, 0.0, 0.5),
        lens(SITE, 0.5, 0.5, -2.0),
        lens(Site(0, "resid_post"), -INF, INF, 1.0),
    )
    once = lens(SITE, -INF, 0.0, -2.0)
    assert torch.equal(states(model, inputs, edit(model, [one, two])), states(model, inputs, edit(model, [once])))
    assert not torch.equal(states(model, inputs, edit(model, [two, one])), states(model, inputs, edit(model, [once])))
    assert torch.equal(
        states(model, inputs, edit(model, [one, early])), states(model, inputs, edit(model, [early, one]))
    )


def test_the_tokens_of_an_edit_can_be_others(checkpoints):
    checkpoint = checkpoints("gpt2")
    lens = Lens.of(items(checkpoint.config)["joint"], checkpoint, concept="a").at("last")
    assert {part.positions for part in lens.parts} == {"last"}
    with lens.edit(checkpoint) as dose:
        checkpoint.model(**batch_of(checkpoint))
        assert dose.looked_at.tolist() == [HIDDEN // 2 + 12] * 4, "one token of both sites"


def test_an_edit_that_no_file_can_hold_is_refused(checkpoints):
    checkpoint = checkpoints("gpt2")
    stacked = Stacked((items(checkpoint.config)["ranges"],) * 2)
    with pytest.raises(LensError, match="of kind Stacked"):
        Lens.of(stacked, checkpoint)


def test_fitted_ranges_make_a_lens(planted_audit, tmp_path):
    from neuronlens.ranges.tables import read_ranges

    checkpoint = neuronlens.load_checkpoint(planted_audit.parent / "model")
    ranges = read_ranges(planted_audit / "fit" / "ranges.parquet")[0]
    lens = neuronlens.Lens.of(ranges, checkpoint)
    lens.save(tmp_path / "a")
    read = neuronlens.Lens.load(tmp_path / "a")
    assert read.concept == ranges.concept
    assert isinstance(read.item, Intervention)
    assert read.item.neurons.tolist() == ranges.neurons.tolist()
    assert read.item.extent == Intervention.of(ranges).extent
    assert neuronlens.Lens.of(ranges, checkpoint, concept="of mine").concept == "of mine"
    bare = neuronlens.Lens.of(Intervention.of(ranges), checkpoint)
    assert (bare.concept, bare.method, lens.method) == ("", "", "")


def test_a_checkpoint_that_has_moved_is_still_the_same(checkpoints, tmp_path):
    checkpoint = checkpoints("gpt2")
    lens = Lens.of(items(checkpoint.config)["ranges"], checkpoint, concept="a")
    moved = neuronlens.load_checkpoint(save_checkpoint(tmp_path / "elsewhere", "gpt2"))
    with lens.edit(moved.model):
        pass
