"""One pass over all rows: independent of batches, padding side and shards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from neuronlens import parts
from neuronlens.activations import extraction, passes, store
from neuronlens.activations.batching import split_batches
from neuronlens.activations.capture import capture
from neuronlens.activations.extract import collect_activations, extract
from neuronlens.activations.head import deciding_hidden
from neuronlens.activations.hidden import kept_key, take_over
from neuronlens.activations.ordinary import collect_ordinary, read_ordinary
from neuronlens.activations.store import read_activations
from neuronlens.checkpoint import load_checkpoint
from neuronlens.config import Config, DatasetParams
from neuronlens.encoding import encoder_for
from neuronlens.errors import DatasetError, NonFiniteActivationError, OutOfMemoryError, SiteError
from neuronlens.parts import Parts
from neuronlens.sites import Site
from tests.conftest import hooks, sentences
from tests.models import CONCEPTS, FAMILIES, HIDDEN, LANGUAGE_MODELS, LAYERS
from tests.reference import BLOCKS, DOWN, hooked

EVERYWHERE = ["resid_post.all", "mlp_post.all"]


def assert_same(one, two):
    assert one.sites == two.sites
    for site in one.sites:
        np.testing.assert_allclose(one.values[site], two.values[site], rtol=1e-4, atol=1e-5)
    for name in ("row", "concept", "split", "tokens", "predicted", "correct", "position"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    np.testing.assert_allclose(one.confidence, two.confidence, rtol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_batches_do_not_matter(checkpoints, dataset, family):
    checkpoint = checkpoints(family)
    whole = collect_activations(checkpoint, dataset, EVERYWHERE)
    for budget in (1, 37):
        assert_same(whole, collect_activations(checkpoint, dataset, EVERYWHERE, batch_tokens=budget))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_block_follows_one_token_of_fit_rows_with_the_values_of_a_whole_pass(checkpoints, dataset, family):
    checkpoint = checkpoints(family)
    widths = []
    with hooked(checkpoint.model, family, LAYERS - 1, "mlp_post", lambda hidden: widths.append(hidden.shape[1])):
        found = collect_activations(checkpoint, dataset, EVERYWHERE, batch_tokens=37)
    batches = split_batches(found.tokens.tolist(), found.split, 37)
    assert [width == 1 for width in widths] == [split == "fit" for split, own in batches.items() for _ in own]
    encoded = encoder_for(checkpoint, DatasetParams()).encode(dataset.text)
    for i, row in enumerate(found.row):
        ids = torch.tensor([encoded[dataset.row.index(row)]])
        with torch.no_grad(), capture(checkpoint.model, [*map(str, found.sites)]) as captured:
            checkpoint.model(ids)
        for site, values in captured.items():
            np.testing.assert_allclose(found.values[site][:, i], values[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["padding_side", "truncation_side"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizers_own_sides_do_not_matter(checkpoints, dataset, family, side):
    checkpoint = checkpoints(family)
    text = DatasetParams(max_tokens=8)
    right = collect_activations(checkpoint, dataset, text=text)
    other = load_checkpoint(checkpoint.path)
    setattr(other.tokenizer, side, "left")
    assert_same(right, collect_activations(other, dataset, text=text))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_ordered_by_concept_then_row(checkpoints, dataset, family):
    found = collect_activations(checkpoints(family), dataset)
    assert len(found) == len(dataset)
    assert list(zip(found.concept, found.row, strict=True)) == sorted(zip(dataset.concept, dataset.row, strict=True))
    assert [dataset.split[row] for row in found.row] == list(found.split)
    assert found.values[found.sites[0]].shape == (HIDDEN, len(dataset))
    decoder = family in LANGUAGE_MODELS
    assert found.position.tolist() == ((found.tokens - 1).tolist() if decoder else [0] * len(found))


@pytest.mark.parametrize("family", ["distilbert", "gemma2"])
def test_answers_are_the_unedited_models(checkpoints, dataset, family):
    checkpoint = checkpoints(family)
    found = collect_activations(checkpoint, dataset, text=DatasetParams(prompt="{text} Topic:"))
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    for i, row in enumerate(found.row):
        if family == "distilbert":
            logits, ids = model(**tokenizer([dataset.text[row]], return_tensors="pt")).logits[0], range(4)
        else:
            prompt = tokenizer(f"{dataset.text[row]} Topic:", return_tensors="pt")["input_ids"]
            logits = model(prompt).logits[0, -1]
            first = len(tokenizer("Topic:")["input_ids"])
            ids = [tokenizer(f"Topic: {name}")["input_ids"][first] for name in CONCEPTS]
        own = CONCEPTS.index(dataset.concept[row])
        best = int(logits[list(ids)].argmax())
        assert found.predicted[i] == CONCEPTS[best]
        assert found.correct[i] == (best == own)
        assert found.confidence[i] == pytest.approx(float(logits.softmax(-1)[ids[own]]), rel=1e-4)


def small_memory(monkeypatch, tokens):
    """Forward calls on more than so many tokens, padding included, fail; returns the sizes of those that did not."""
    ran = []

    def limited(model, batch):
        if batch.input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        ran.append(batch.input_ids.numel())
        return deciding_hidden(model, batch)

    monkeypatch.setattr(passes, "deciding_hidden", limited)
    return ran


@pytest.mark.parametrize("family", ["distilbert", "qwen2"])
def test_batches_that_do_not_fit_are_cut(checkpoints, dataset, monkeypatch, family):
    checkpoint = checkpoints(family)
    whole = collect_activations(checkpoint, dataset, EVERYWHERE)
    ran = small_memory(monkeypatch, 50)
    assert_same(whole, collect_activations(checkpoint, dataset, EVERYWHERE))
    assert len(ran) > 3
    small_memory(monkeypatch, 10)
    with pytest.raises(OutOfMemoryError, match=r"a row of \d+ tokens does not fit.*dataset\.max_tokens"):
        collect_activations(checkpoint, dataset)


@pytest.mark.parametrize("shard_rows", [None, 5])
def test_what_is_stored_is_what_is_collected(checkpoints, dataset, prepared, tmp_path, monkeypatch, shard_rows):
    checkpoint = checkpoints("llama")
    if shard_rows:
        monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 24 * shard_rows)
    config = Config.model_validate(
        {"checkpoint": {"path": str(checkpoint.path)}, "extract": {"sites": EVERYWHERE, "batch_tokens": 50}}
    )
    out = tmp_path / "extract"
    facts = extract(config, {"prepare": prepared}, out)
    assert (facts["shards"] > 1) == bool(shard_rows)
    stored = read_activations(out, dataset.to_table())
    order = np.lexsort((stored.row, stored.concept))
    fields = {field.name: getattr(stored, field.name) for field in dataclasses.fields(stored) if field.name != "values"}
    values = {site: found[:, order] for site, found in stored.values.items()}
    sorted_ = type(stored)(values, **{name: np.array(column, dtype=object)[order] for name, column in fields.items()})
    collected = collect_activations(checkpoint, dataset, EVERYWHERE, batch_tokens=50)
    for site in collected.sites:
        if site.layer < LAYERS - 1:
            np.testing.assert_array_equal(sorted_.values[site], collected.values[site])
        else:  # which follows one token a row, unless ordinary tokens are drawn from the batch
            np.testing.assert_allclose(sorted_.values[site], collected.values[site], rtol=1e-4, atol=1e-5)
    for name in set(fields) - {"confidence"}:
        np.testing.assert_array_equal(getattr(sorted_, name), getattr(collected, name), err_msg=name)
    confidence = sorted_.confidence.astype(np.float32)  # of rows that went through the head with others
    np.testing.assert_allclose(confidence, collected.confidence, rtol=1e-5)


@pytest.mark.parametrize("scoring", ["constrained", "generate"])
def test_a_stage_short_of_memory_gives_the_same_shards(checkpoints, dataset, prepared, tmp_path, monkeypatch, scoring):
    """Shards and the order of rows are planned before anything fails; what was cut is not kept for evaluation."""
    checkpoint = checkpoints("llama")
    config = Config.model_validate(
        {
            "checkpoint": {"path": str(checkpoint.path)},
            "extract": {"sites": EVERYWHERE, "batch_tokens": 90},
            "evaluate": {"scoring": scoring},
        }
    )
    monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 24 * 12)
    plenty, scarce, again = (tmp_path / name for name in ("plenty", "scarce", "again"))
    facts = extract(config, {"prepare": prepared}, plenty)
    assert facts["halvings"] == 0
    assert facts["batch_tokens"] == 90
    small_memory(monkeypatch, 40)
    found = extract(config, {"prepare": prepared}, scarce)
    assert found["halvings"] > 2
    assert found | {"halvings": 0} == facts
    assert "test" not in (take_over(kept_key(config, checkpoint, dataset, 90)) or {"test": ()})
    one, two = (read_activations(folder, dataset.to_table()) for folder in (plenty, scarce))
    assert_same(one, two)
    extract(config, {"prepare": prepared}, again)
    assert contents(scarce) == contents(again), "the same for the same failures"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_every_row_is_run_once_and_documents_apart(checkpoints, dataset, prepared, tmp_path, monkeypatch):
    """Ordinary tokens of fit rows come from the same pass as everything else."""
    (tmp_path / "auxiliary.txt").write_text("\n".join(sentences(6, seed=5)))
    checkpoint = checkpoints("gpt2")
    config = Config.model_validate(
        {
            "checkpoint": {"path": str(checkpoint.path)},
            "extract": {"sites": EVERYWHERE, "batch_tokens": 60},
            "evaluate": {"auxiliary": str(tmp_path / "auxiliary.txt"), "auxiliary_rows": 3},
        }
    )
    calls = []

    class Counted(type(checkpoint.model)):
        def __call__(self, *args, **kwargs):
            calls.append(kwargs["input_ids"].shape)
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(parts, "AT_ONCE", 1)  # so that the calls have an order
    opened = load_checkpoint(checkpoint.path)
    opened.model.__class__ = Counted
    monkeypatch.setattr(extraction, "open_checkpoint", lambda _: opened)
    facts = extract(config, {"prepare": prepared}, tmp_path / "extract")
    encoded = encoder_for(checkpoint, config.dataset).encode(dataset.text)
    lengths = [len(ids) for ids in encoded]
    planned = [rows for found in split_batches(lengths, dataset.split, 60).values() for rows in found]
    assert facts["batches"] == len(planned)
    assert [shape[0] for shape in calls[: len(planned)]] == [len(rows) for rows in planned]
    answered, *documents = calls[len(planned) :]
    assert answered == (len(dataset), 1), "the head, once for all rows"
    assert sum(shape[0] for shape in documents) == 3
    padded = sum(shape.numel() for shape in calls[: len(planned)])
    assert facts["tokens"] == sum(lengths)
    assert facts["padding_share"] == pytest.approx(1 - sum(lengths) / padded, abs=1e-6)


def test_shards_written_behind_the_model_are_those_written_in_line(checkpoints, prepared, tmp_path, monkeypatch):
    checkpoint = checkpoints("bert")
    config = Config.model_validate(
        {"checkpoint": {"path": str(checkpoint.path)}, "extract": {"sites": EVERYWHERE, "batch_tokens": 50}}
    )
    monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 24 * 5)
    behind, in_line = tmp_path / "behind", tmp_path / "in_line"
    extract(config, {"prepare": prepared}, behind)
    one_by_one = Parts(tmp_path / "parts", lambda maker, names: [*map(maker, names)])
    extract(config, {"prepare": prepared}, in_line, one_by_one)
    assert len(contents(behind)) > 12
    assert contents(behind) == contents(in_line)


def test_an_interrupted_extraction_goes_on_where_it_stopped(checkpoints, prepared, tmp_path, monkeypatch):
    """Shards that are whole are not read again, one that was hurt is, and the artifact is the same to the byte."""
    (tmp_path / "auxiliary.txt").write_text("\n".join(sentences(9, seed=5)))
    config = Config.model_validate(
        {
            "checkpoint": {"path": str(checkpoints("gpt2").path)},
            "extract": {"sites": EVERYWHERE, "batch_tokens": 50},
            "evaluate": {"auxiliary": str(tmp_path / "auxiliary.txt"), "auxiliary_rows": 4},
        }
    )
    monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 24 * 5)
    undisturbed, resumed = tmp_path / "undisturbed", tmp_path / "resumed"
    facts = extract(config, {"prepare": prepared}, undisturbed)
    made = []

    def some(maker, names):
        for name in names:
            if len(made) == 4:
                raise KeyboardInterrupt
            made.append(name)
            maker(name)

    with pytest.raises(KeyboardInterrupt):
        extract(config, {"prepare": prepared}, resumed, Parts(tmp_path / "parts", some))
    hurt = next((tmp_path / "parts" / made[1]).rglob("*.parquet"))
    hurt.write_bytes(hurt.read_bytes()[:-9])
    again = []

    def rest(maker, names):
        again.extend(names)
        for name in names:
            maker(name)

    assert extract(config, {"prepare": prepared}, resumed, Parts(tmp_path / "parts", rest)) == facts
    assert set(again) & set(made) == {made[1]}
    assert len({*made, *again}) == facts["shards"] + 1
    assert contents(resumed) == contents(undisturbed)


def test_a_full_disk_ends_the_stage_with_the_original_error(checkpoints, prepared, tmp_path, monkeypatch):
    error = OSError(28, "No space left on device")

    def full(*_):
        raise error

    checkpoint = checkpoints("bert")
    config = Config.model_validate({"checkpoint": {"path": str(checkpoint.path)}, "extract": {"batch_tokens": 50}})
    monkeypatch.setattr(store, "_SHARD_BYTES", 4 * 16 * 5)
    monkeypatch.setattr(extraction, "write_shard", full)
    monkeypatch.setattr(extraction, "open_checkpoint", lambda _: checkpoint)  # no hook may be left on its model
    with pytest.raises(OSError, match="No space left") as caught:
        extract(config, {"prepare": prepared}, tmp_path / "extract")
    assert caught.value is error
    assert hooks(checkpoint.model) == 0


def test_a_sample_of_ordinary_tokens_is_stored_beside_the_rows(checkpoints, dataset, prepared, tmp_path):
    """Of every site, from the spare documents alone: perplexity is measured on the first ones."""
    texts = sentences(9, seed=5)
    (tmp_path / "auxiliary.txt").write_text("\n".join(texts))
    checkpoint = checkpoints("llama")
    config = Config.model_validate(
        {
            "checkpoint": {"path": str(checkpoint.path)},
            "extract": {"sites": EVERYWHERE},
            "evaluate": {"auxiliary": str(tmp_path / "auxiliary.txt"), "auxiliary_rows": 4},
            "seed": 3,
        }
    )
    facts = extract(config, {"prepare": prepared}, tmp_path / "extract")
    spare = texts[4:8]
    assert facts["spare_documents"] == len(spare)
    expected = collect_ordinary(checkpoint, dataset, EVERYWHERE, documents=spare, seed=3)
    for site, part in expected.items():
        stored = read_ordinary(tmp_path / "extract", site)
        np.testing.assert_array_equal(stored.values, part.values)
        np.testing.assert_array_equal(stored.concept, part.concept)
    assert set(read_activations(tmp_path / "extract", dataset.to_table()).sites) == set(expected)


def test_facts_tell_where_the_sites_were_found(checkpoints, prepared, tmp_path):
    checkpoint = checkpoints("bert")
    config = Config.model_validate(
        {"checkpoint": {"path": str(checkpoint.path)}, "extract": {"sites": ["resid_post.last", "mlp_post.0"]}}
    )
    facts = extract(config, {"prepare": prepared}, tmp_path / "extract")
    assert facts["sites"] == {"mlp_post.0": "bert.encoder.layer.0.output.dense", "resid_post.2": "bert.encoder.layer.2"}
    assert facts["widths"] == {"mlp_post.0": 24, "resid_post.2": 16}
    assert facts["pooling"] == "first"
    assert facts["rows"] == 48


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_broken_weight_is_not_averaged_over(checkpoints, dataset, family):
    checkpoint = load_checkpoint(checkpoints(family).path)
    with torch.no_grad():
        checkpoint.model.get_submodule(BLOCKS[family])[2].get_submodule(DOWN[family]).weight.view(-1)[3] = float("nan")
    with pytest.raises(
        NonFiniteActivationError, match=r"site resid_post\.2, neuron \d+, row \d+: the activation is nan"
    ):
        collect_activations(checkpoint, dataset)


def test_a_site_or_concept_the_model_lacks_is_refused(checkpoints, dataset):
    with pytest.raises(
        SiteError, match=r"extract\.sites: site 'resid_post\.7': layer 7 does not exist.*0 to 2, last, middle"
    ):
        collect_activations(checkpoints("bert"), dataset, ["resid_post.7"])
    stranger = dataclasses.replace(dataset, concept=["weather", *dataset.concept[1:]])
    with pytest.raises(DatasetError, match=r"concept 'weather' is no class of the model.*--set 'dataset\.labels"):
        collect_activations(checkpoints("bert"), stranger)


@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_poolings_other_than_the_familys_own(checkpoints, dataset, pooling):
    found = collect_activations(checkpoints("gpt2"), dataset, pooling=pooling)
    own = collect_activations(checkpoints("gpt2"), dataset)
    site = Site(2, "resid_post")
    assert not np.allclose(found.values[site], own.values[site])
    assert set(found.position) == ({0} if pooling == "first" else {-1})
