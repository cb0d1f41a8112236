"""Latents of sparse autoencoders are sites like others: read, edited with what is not reconstructed kept, audited beside a baseline."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.capture import capture
from neuronlens.activations.readout import deciding_logits
from neuronlens.artifact import read_json, read_manifest, read_table
from neuronlens.autoencoder import autoencoder_at
from neuronlens.autoencoder_file import load_autoencoder
from neuronlens.checkpoint import identify_checkpoint, load_checkpoint
from neuronlens.config import Config
from neuronlens.errors import CheckpointError, SiteError
from neuronlens.evaluation.deciding import deciding_passes
from neuronlens.evaluation.reconstruction import measure_quality, reconstructions
from neuronlens.evaluation.text import document_losses, perplexity, text_losses
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Intervention, Joint
from neuronlens.interventions.latents import Reconstruction, on_activations
from neuronlens.interventions.lens import Lens
from neuronlens.interventions.operators import Target
from neuronlens.pages.text import significant
from neuronlens.params import load_config
from neuronlens.report.page import html
from neuronlens.sites import Site, expand_sites, site_width
from neuronlens.stages import STAGES, run_stage, stage_inputs, stage_params, why_not_current
from tests import autoencoders
from tests.conftest import labelled, sentences
from tests.evaluation.short_cuts import ragged

PLACES = ("resid_post.1", "mlp_out.0", "mlp_post.2", "resid_post.2")
KINDS = {"resid_post.1": "standard", "mlp_out.0": "topk", "mlp_post.2": "jumprelu", "resid_post.2": "gated"}
LATENTS = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Site -> folder of an autoencoder of its width."""
    root = tmp_path_factory.mktemp("autoencoders")
    for place, kind in KINDS.items():
        autoencoders.write(root / place, kind, width=24 if place.startswith("mlp_post") else 16, latents=LATENTS)
    return {place: str(root / place) for place in KINDS}


@pytest.fixture(scope="module")
def checkpoint(checkpoints, folders):
    return load_checkpoint(checkpoints("llama").path, sae=folders)


def site(place):
    return Site.parse(f"sae_{place}")


def ranges(place, operator="zero", positions="all", seed=0):
    """An edit of half of the latents, wherever they are active."""
    made = torch.Generator().manual_seed(seed)
    neurons = torch.randperm(LATENTS, generator=made)[: LATENTS // 2].sort().values
    lower, upper = torch.full((len(neurons), 1), 1e-4), torch.full((len(neurons), 1), 20.0)
    numbers = (torch.rand(len(neurons), generator=made) for _ in range(5))
    return Intervention(
        site(place), neurons, lower, upper, Target(lower[:, 0], upper[:, 0], *numbers), operator, positions
    )


def test_latents_are_named_after_their_site_and_follow_it():
    found = expand_sites(["sae_resid_post.last", "resid_post.2", "sae_mlp_out.0", "mlp_post.2"], 3)
    assert [str(one) for one in found] == ["sae_mlp_out.0", "mlp_post.2", "resid_post.2", "sae_resid_post.2"]
    assert found[-1].below == found[-2]
    assert [one.is_latent for one in found] == [True, False, False, True]


@pytest.mark.parametrize("pooling", ["last", "first", "mean", "max"])
def test_what_is_read_is_what_the_autoencoder_says_of_what_is_there(checkpoint, folders, pooling):
    batch = ragged(checkpoint)
    sites = [*map(site, PLACES), *map(Site.parse, PLACES)]
    with capture(checkpoint.model, sites, pooling) as found, torch.no_grad():
        deciding_logits(checkpoint.model, batch)
    for place in PLACES:
        latents = found[site(place)]
        assert latents.shape == (len(batch.rows), LATENTS)
        assert site_width(checkpoint.config, site(place)) == LATENTS
        if pooling in ("last", "first"):
            assert torch.equal(latents, load_autoencoder(folders[place]).encode(found[Site.parse(place)]))


@pytest.mark.parametrize("place", PLACES)
def test_an_edit_changes_what_its_latents_stand_for_and_no_more(checkpoint, folders, place):
    model, batch, item = checkpoint.model, ragged(checkpoint), ranges(place)
    seen = {}

    def at(name):
        with capture(model, [Site.parse(place)], "mean") as found:
            logits = deciding_logits(model, batch)
        seen[name] = found[Site.parse(place)]
        return logits

    with torch.no_grad():
        plain = at("before")
        with edit(model, item.idle()) as (dose,):
            assert torch.equal(at("idle"), plain)
        assert dose.changed.sum() == 0
        with edit(model, item) as (dose,):
            assert not torch.equal(at("edited"), plain)
        assert dose.changed.sum() > 0
        assert torch.equal(dose.looked_at, batch.attention_mask.sum(dim=1) * item.width)
    autoencoder = load_autoencoder(folders[place])
    (bound,) = on_activations(model, [item])
    assert bool(torch.isposinf(bound.idle().item.lower).all())
    hidden = torch.randn(2, 3, autoencoder.width, generator=torch.Generator().manual_seed(3))
    everywhere = torch.ones(2, 3, dtype=torch.bool)
    latents = autoencoder.encode(hidden)
    wanted, inside = item.apply(latents, everywhere)
    edited, changed = bound.apply(hidden, everywhere)
    error = hidden - autoencoder.decode(latents, hidden)
    torch.testing.assert_close(edited, autoencoder.decode(wanted, hidden) + error, rtol=1e-5, atol=1e-5)
    assert torch.equal(changed, inside)
    assert torch.equal(changed, bound.changed(hidden, everywhere))


def test_a_reconstruction_can_be_idle_and_acts_on_the_tokens_named(checkpoint):
    autoencoder = autoencoder_at(checkpoint.config, "resid_post.1")
    item = Reconstruction(Site(1, "sae_resid_post"), autoencoder)
    hidden = torch.randn(2, 3, autoencoder.width, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[True, False, True], [False, True, False]])
    edited, changed = item.apply(hidden, tokens)
    assert torch.equal(changed, tokens[..., None].expand_as(hidden))
    assert torch.equal(edited[~tokens], hidden[~tokens])
    back = autoencoder.decode(autoencoder.encode(hidden), hidden)
    torch.testing.assert_close(edited[tokens], back[tokens])
    assert not torch.equal(edited[tokens], hidden[tokens])
    assert item.apply(hidden.bfloat16(), tokens)[0].dtype == torch.bfloat16
    idle = item.idle()
    assert (idle.latents, idle.site, idle.width, idle.extent != item.extent) == (
        item.latents,
        item.site,
        item.width,
        True,
    )
    edited, changed = idle.apply(hidden, tokens)
    assert torch.equal(edited, hidden)
    assert not changed.any()
    moved = item.to("meta")
    assert moved.autoencoder.encoder.device.type == "meta"
    assert moved.latents == item.latents


def test_short_cuts_give_what_whole_passes_give(checkpoint):
    model, batch = checkpoint.model, ragged(checkpoint)
    edits = [
        ranges(place, operator, seed=seed) for place in PLACES for seed, operator in enumerate(("zero", "steer:-1"))
    ]
    edits += [Joint.of([ranges("mlp_out.0"), ranges("resid_post.2")]), ranges("resid_post.2", positions="last")]
    edits += [Reconstruction(site(place), autoencoder) for place, autoencoder in checkpoint.autoencoders.items()]
    with torch.inference_mode():
        bound = on_activations(model, edits)
        for index, logits, dose in deciding_passes(model, bound, batch):
            if index:
                with edit(model, edits[index - 1]) as (whole,):
                    torch.testing.assert_close(logits, deciding_logits(model, batch), rtol=1e-5, atol=1e-5)
                assert torch.equal(dose.changed, whole.changed)
                assert torch.equal(dose.looked_at, whole.looked_at)
        for index, losses in text_losses(model, bound, batch):
            if index:
                with edit(model, edits[index - 1]):
                    expected = dict(text_losses(model, [], batch))[0]
                torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-4)


def test_edits_that_differ_in_their_latents_alone_are_told_apart(checkpoint):
    first, second = on_activations(checkpoint.model, [ranges("resid_post.1", seed=0), ranges("resid_post.1", seed=1)])
    assert first.extent != second.extent


def test_a_lens_of_latents_edits_the_model_that_has_the_autoencoder(checkpoints, checkpoint, tmp_path):
    item, batch = ranges("resid_post.1"), ragged(checkpoint)
    file = tmp_path / "x.lens.safetensors"
    Lens.of(item, checkpoint).save(file)
    lens = Lens.load(file)
    with torch.no_grad():
        with edit(checkpoint.model, item):
            expected = deciding_logits(checkpoint.model, batch)
        with lens.edit(checkpoint):
            assert torch.equal(deciding_logits(checkpoint.model, batch), expected)
    for anyone in (False, True):
        with (
            pytest.raises(SiteError, match="no autoencoder"),
            lens.edit(checkpoints("llama"), any_checkpoint=anyone),
        ):
            pass


def test_the_identity_of_a_checkpoint_has_its_autoencoders_in_it(checkpoints, checkpoint, folders, tmp_path):
    path = checkpoints("llama").path

    def identity(sae):
        params = Config.model_validate({"checkpoint": {"path": str(path), "sae": sae}}).checkpoint
        return identify_checkpoint(params)[1]

    assert identity(folders) == checkpoint.fingerprint != checkpoints("llama").fingerprint == identity(None)
    moved = shutil.copytree(folders["resid_post.1"], tmp_path / "elsewhere")
    assert identity({**folders, "resid_post.1": str(moved)}) == checkpoint.fingerprint
    assert identity({"resid_post.0": str(moved)}) != identity({"resid_post.1": str(moved)})


def test_mistakes_are_one_sentence(checkpoints, folders, tmp_path):
    path = checkpoints("llama").path
    with pytest.raises(
        SiteError, match=r"sae_resid_post\.1: the checkpoint was opened with no autoencoder.*checkpoint\.sae"
    ):
        site_width(checkpoints("llama").config, site("resid_post.1"))
    with pytest.raises(SiteError, match=r"no autoencoder at resid_post\.0.*Did you mean 'resid_post\.1'"):
        site_width(load_checkpoint(path, sae={"resid_post.1": folders["resid_post.1"]}).config, site("resid_post.0"))
    with pytest.raises(CheckpointError, match=r"mlp_post\.1 reads 16 numbers, and the site has 24"):
        load_checkpoint(path, sae={"mlp_post.1": folders["resid_post.1"]})
    with pytest.raises(CheckpointError, match=r"no site resid_post\.9"):
        load_checkpoint(path, sae={"resid_post.9": folders["resid_post.1"]})
    autoencoders.write(tmp_path / "unnamed", "standard", width=16)
    with pytest.raises(CheckpointError, match="does not say which site it was trained on"):
        load_checkpoint(path, sae=str(tmp_path / "unnamed"))


def test_an_audit_of_latents_reports_what_reconstruction_alone_costs(checkpoints, folders, tmp_path):
    dataset = labelled(("finance", "health", "sports"), fit=6, test=3)
    columns = {"text": list(dataset.text), "label": list(dataset.concept), "split": list(dataset.split)}
    pq.write_table(pa.table(columns), tmp_path / "topics.parquet")
    (tmp_path / "ordinary.txt").write_text("\n".join(sentences(3, seed=9)))
    config = load_config(
        None,
        [
            f"checkpoint.path={checkpoints('llama').path}",
            f"checkpoint.sae={{resid_post.1: '{folders['resid_post.1']}', mlp_out.0: '{folders['mlp_out.0']}'}}",
            "extract.sites=[sae_resid_post.1, sae_mlp_out.0, resid_post.1]",
            f"dataset.path={tmp_path / 'topics.parquet'}",
            f"evaluate.auxiliary={tmp_path / 'ordinary.txt'}",
            "dataset.prompt='{text} Topic:'",
            "fit.rows=all",
            "interventions.top=0.3",
            "evaluate.bootstrap=100",
        ],
    )
    audit = tmp_path / "audit"
    for name in STAGES:
        run_stage(name, config, audit)
    facts = read_manifest(audit / "evaluate")["facts"]
    assert facts["no_op_difference"] == 0
    assert facts["suffix_difference"] <= facts["suffix_tolerance"]
    results = read_table(audit / "evaluate" / "results.parquet").to_pylist()
    assert {row["site"] for row in results} == {"sae_mlp_out.0", "resid_post.1", "sae_resid_post.1"}
    document = read_json(audit / "report" / "audit.json")
    told = document["autoencoders"]
    assert [row["site"] for row in told] == ["sae_mlp_out.0", "sae_resid_post.1"]
    opened = load_checkpoint(checkpoints("llama").path, sae=config.checkpoint.sae)
    items = reconstructions(opened.model, [Site.parse(row["site"]) for row in told])
    losses, counts = document_losses(opened, (tmp_path / "ordinary.txt").read_text().splitlines(), items)
    assert [row["perplexity"] for row in told] == pytest.approx(perplexity(losses, counts)[1:].tolist(), rel=1e-6)
    for row in told:
        autoencoder = opened.autoencoders[row["site"].removeprefix("sae_")]
        assert (row["fingerprint"], row["latents"]) == (autoencoder.fingerprint, LATENTS)
        assert 0 < row["active"] <= LATENTS
        assert row["explained_variance"] < 1
        assert row["accuracy_drop"] == pytest.approx(row["base_accuracy"] - row["accuracy"])
        assert row["accuracy_drop_low"] <= row["accuracy_drop"] <= row["accuracy_drop_high"]
        assert row["perplexity_ratio"] == pytest.approx(row["perplexity"] / row["base_perplexity"])
        assert row["base_perplexity"] == pytest.approx(results[0]["base_perplexity"])
    page = (audit / "report" / "report.html").read_text()
    assert "sae_mlp_out.0" in page
    assert f"<td>{significant(told[0]['perplexity_ratio'])}</td></tr>" in page
    for row in told:
        row |= {name: None for name in row if "perplexity" in name}
    assert "sae_mlp_out.0" in html(document), "where no ordinary text was given"
    stage = STAGES["evaluate"]
    known = stage_inputs(stage, config, audit), stage_params(stage, config)
    assert why_not_current(stage, *known, audit / "evaluate") is None


def test_quality_is_what_all_tokens_together_say(checkpoint, folders):
    model = checkpoint.model
    encoded = [list(range(4, 4 + length)) for length in (7, 3, 5, 2, 6)]
    batches = [collate(encoded, np.array(rows), pad_id=0, device=model.device) for rows in ([0], [2, 3], [1], [4])]
    items = reconstructions(model, [site("resid_post.1")])
    assert measure_quality(model, [], batches).tokens == 0
    quality = measure_quality(model, items, batches)
    assert quality.tokens == sum(map(len, encoded))
    (found,) = quality.rows
    hidden = []
    with torch.inference_mode():
        for ids in encoded:
            output = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            hidden.append(output.hidden_states[2][0])
    values = torch.cat(hidden)
    autoencoder = load_autoencoder(folders["resid_post.1"])
    latents = autoencoder.encode(values)
    missed = (values - autoencoder.decode(latents, values)).double().square().sum()
    spread = (values.double() - values.double().mean(dim=0)).square().sum()
    assert found["explained_variance"] == pytest.approx(float(1 - missed / spread), rel=1e-4)
    assert found["active"] == pytest.approx(float((latents != 0).float().sum(dim=1).mean()))
