"""What is kept for evaluation is what evaluation would compute, it is kept whole or not at all, and it is held once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from neuronlens.activations import extraction, hidden
from neuronlens.activations.batching import collate, pad_id_of, token_budget_batches
from neuronlens.activations.extract import extract
from neuronlens.activations.head import deciding_hidden
from neuronlens.activations.hidden import (
    Keeper,
    KeptBatch,
    blocks_before,
    hand_over,
    kept_key,
    off_device,
    record_blocks,
    take_over,
)
from neuronlens.activations.readout import continuations, deciding_logits
from neuronlens.config import Config
from neuronlens.encoding import encoder_for, resolve_labels
from neuronlens.evaluation import scoring as evaluation
from neuronlens.evaluation.scoring import score_rows
from neuronlens.sites import Site
from tests.evaluation.edits import half
from tests.models import FAMILIES, HIDDEN, LANGUAGE_MODELS, LAYERS

BUDGET = 40


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    """Nothing is handed over from test to test."""
    monkeypatch.setattr(hidden, "_slot", None)


def settings(checkpoint, *, scoring="constrained", **extraction):
    """Every block's output and MLP, in small batches."""
    given = {"sites": ["resid_post.all", "mlp_post.all"], "batch_tokens": BUDGET} | extraction
    return Config.model_validate(
        {"checkpoint": {"path": str(checkpoint.path)}, "extract": given, "evaluate": {"scoring": scoring}}
    )


@pytest.mark.parametrize(
    ("site", "count"), [("resid_post.0", 1), ("resid_post.2", 3), ("mlp_post.0", 0), ("mlp_post.2", 2)]
)
def test_blocks_before_an_edit(site, count):
    assert blocks_before(Site.parse(site)) == count


@pytest.mark.parametrize(
    ("family", "scoring"),
    [*((family, "constrained") for family in FAMILIES), *((family, "generate") for family in LANGUAGE_MODELS)],
)
def test_what_is_kept_is_what_evaluation_would_compute(
    checkpoints, dataset, prepared, tmp_path, monkeypatch, family, scoring
):
    """The same batches in the same order as `score_rows` meets, the same hidden states and, from them, scores, to the bit."""
    checkpoint = checkpoints(family)
    model, tokenizer, whole = checkpoint.model, checkpoint.tokenizer, evaluation.all_deciding
    edits = [half(model.config, Site(1, "resid_post")), half(model.config, Site(LAYERS - 1, "resid_post"))]
    config = settings(checkpoint, scoring=scoring)
    extract(config, {"prepare": prepared}, tmp_path / "extract")
    kept = take_over(kept_key(config, checkpoint, dataset, BUDGET))
    assert set(kept) == {"test", "validation"}
    labels = resolve_labels(checkpoint, dataset.concepts, config.dataset, scoring)
    encoder = encoder_for(checkpoint, config.dataset, labels.room(scoring))
    for split, batches in kept.items():
        met = []

        def passes(model, edits, iterated, met=met, **how):
            return whole(model, edits, (met.append(batch) or batch for batch in iterated), **how)

        with monkeypatch.context() as patch:
            patch.setattr(evaluation, "all_deciding", passes)
            scores = score_rows(checkpoint, dataset, edits, split=split, scoring=scoring, batch_tokens=BUDGET)
        assert len(met) == len(batches) > 0
        encoded = encoder.encode([dataset.text[i] for i in scores.rows])
        for batch, own in zip(met, batches, strict=True):
            assert own.rows.tolist() == scores.rows[batch.rows].tolist()
            with torch.inference_mode(), record_blocks(model, range(LAYERS + 1)) as outputs:
                deciding = deciding_hidden(model, batch)
            assert set(own.outputs) == {1, 2, 3}
            for count, output in own.outputs.items():
                assert torch.equal(output, outputs[count])
            assert torch.equal(own.deciding, deciding)
            steps = labels.longest + 1
            texts = continuations(model, tokenizer, encoded, batch.rows, steps) if scoring == "generate" else ()
            assert [*own.texts] == [*texts]
        again = score_rows(checkpoint, dataset, edits, split=split, scoring=scoring, batch_tokens=BUDGET, kept=batches)
        for name in ("predicted", "confidence", "changed", "looked_at"):
            np.testing.assert_array_equal(getattr(again, name), getattr(scores, name), name)


def test_only_what_the_audited_sites_need_is_kept(checkpoints, dataset, prepared, tmp_path):
    checkpoint = checkpoints("gpt2")
    for sites, counts in ((["mlp_post.0"], set()), (["mlp_post.2", "resid_post.1"], {2}), (["resid_post.last"], {3})):
        config = settings(checkpoint, sites=sites)
        extract(config, {"prepare": prepared}, tmp_path / sites[0])
        for batch in take_over(kept_key(config, checkpoint, dataset, BUDGET))["test"]:
            assert set(batch.outputs) == counts


def kept_bytes(checkpoint, dataset, config, split):
    """What a split takes: hidden states of the padded batches, and of each row the vector that decides it."""
    encoded = encoder_for(checkpoint, config.dataset).encode(
        [text for text, own in zip(dataset.text, dataset.split, strict=True) if own == split]
    )
    lengths = [len(ids) for ids in encoded]
    padded = sum(len(rows) * max(lengths[i] for i in rows) for rows in token_budget_batches(lengths, BUDGET))
    return (padded * LAYERS + len(encoded)) * HIDDEN * 4


def test_a_split_is_kept_whole_or_not_at_all(checkpoints, dataset, prepared, tmp_path):
    """The test rows come first."""
    checkpoint = checkpoints("llama")
    config = settings(checkpoint)
    test, validation = (kept_bytes(checkpoint, dataset, config, split) for split in ("test", "validation"))
    assert validation < test
    expected = {
        test + validation: {"test", "validation"},
        test + validation - 1: {"test"},
        test: {"test"},
        test - 1: {"validation"},
        validation - 1: set(),
    }
    for budget, splits in expected.items():
        out = tmp_path / str(budget)
        extract(config, {"prepare": prepared}, out, keep_bytes=budget)
        kept = take_over(kept_key(config, checkpoint, dataset, BUDGET))
        assert set(kept) == splits
        assert sum(batch.nbytes for batches in kept.values() for batch in batches) <= budget
        if budget < test:
            files = sorted(path.relative_to(out) for path in out.rglob("*.parquet"))
            first = tmp_path / str(test + validation)
            assert files == sorted(path.relative_to(first) for path in first.rglob("*.parquet"))
            for file in files:
                assert (out / file).read_bytes() == (first / file).read_bytes(), "keeping changes no number"


def batch_of(rows=2, tokens=3, dtype=torch.float32):
    deciding = torch.zeros(rows, 1, HIDDEN, dtype=dtype)
    return KeptBatch(np.arange(rows), {1: torch.zeros(rows, tokens, HIDDEN, dtype=dtype)}, deciding)


def test_a_split_that_turns_out_larger_is_dropped():
    size = batch_of().nbytes
    keeper = Keeper([1], {"test": 2 * size, "validation": size}, {"test": 2, "validation": 1}, 4 * size)
    for split in ("validation", "test", "fit"):
        keeper.add(split, 0, batch_of())
    assert {split: len(batches) for split, batches in keeper.batches.items()} == {"validation": 1}, "test is not whole"
    keeper.add("validation", 0, batch_of())
    keeper.add("validation", 0, batch_of())
    keeper.add("test", 1, batch_of(dtype=torch.float64))
    assert (keeper.batches, keeper.keeps("test")) == ({}, False)


def test_batches_are_kept_in_their_order_however_they_come():
    keeper = Keeper([1], {"test": 1 << 20}, {"test": 3}, 1 << 20)
    for place in (2, 0, 1):
        keeper.add("test", place, batch_of(rows=place + 1))
    assert [len(batch.rows) for batch in keeper.batches["test"]] == [1, 2, 3]


def test_a_quarter_of_the_memory_is_kept_at_most(checkpoints, monkeypatch):
    model, sites = checkpoints("bert").model, [Site(0, "resid_post")]
    lengths, batches = [3, 3], {"test": [np.arange(2)]}
    need = 2 * (3 + 1) * HIDDEN * 4
    for available, kept in ((4 * need, {"test"}), (4 * need - 4, set())):
        monkeypatch.setattr(hidden, "available_memory", lambda available=available: available)
        keeper = Keeper.of_sites(model, sites, batches, lengths)
        assert {split for split in batches if keeper.keeps(split)} == kept


def test_an_output_keeps_its_form_and_nothing_that_hangs_on_it():
    states, weights = torch.rand(2, 3, 4), torch.rand(2, 3, 3)
    assert torch.equal(off_device(states), states)
    kept = off_device((states, weights, None))
    assert len(kept) == 3
    assert torch.equal(kept[0], states)
    assert kept[1:] == (None, None)
    assert dataclasses.replace(batch_of(), outputs={1: kept}).nbytes == states.nbytes + 2 * HIDDEN * 4


@torch.inference_mode()
def test_what_is_recorded_can_be_changed_on_the_way(checkpoints):
    checkpoint = checkpoints("gpt2")
    batch = collate([[5, 6, 7]], np.arange(1), pad_id=pad_id_of(checkpoint.tokenizer), device="cpu")
    with record_blocks(checkpoint.model, [0, 2]) as plain, record_blocks(checkpoint.model, [2], torch.neg) as changed:
        deciding_logits(checkpoint.model, batch)
    assert set(plain) == {2}
    assert torch.equal(changed[2], -plain[2])


def test_there_is_one_place_and_it_is_emptied():
    one, two = {"test": [batch_of()]}, {"test": [batch_of()]}
    assert take_over("one") is None
    hand_over("one", one)
    assert take_over("two") is None
    hand_over("two", two)
    assert take_over("one") is None
    assert take_over("two") is two
    assert take_over("two") is None


def test_the_key_is_of_all_that_the_batches_depend_on(checkpoints, dataset):
    checkpoint = checkpoints("llama")
    config = settings(checkpoint)
    own = kept_key(config, checkpoint, dataset, BUDGET)
    text = ["the bank", *dataset.text[1:]]
    cut = config.model_copy(update={"dataset": config.dataset.model_copy(update={"max_tokens": 9})})
    others = [
        (config, checkpoints("llama", 1), dataset, BUDGET),
        (config, dataclasses.replace(checkpoint, dtype="bfloat16"), dataset, BUDGET),
        (config, checkpoint, dataclasses.replace(dataset, text=text), BUDGET),
        (config, checkpoint, dataclasses.replace(dataset, split=["test", *dataset.split[1:]]), BUDGET),
        (settings(checkpoint, sites=["resid_post.1"]), checkpoint, dataset, BUDGET),
        (settings(checkpoint, scoring="free"), checkpoint, dataset, BUDGET),
        (settings(checkpoint, pooling="mean"), checkpoint, dataset, BUDGET),
        (cut, checkpoint, dataset, BUDGET),
        (config, checkpoint, dataset, BUDGET + 1),
    ]
    keys = [kept_key(*other) for other in others]
    assert len({own, *keys}) == len(others) + 1


def test_the_key_is_of_nothing_else(checkpoints, dataset):
    """Not of paths, of names that mean the same, or of what only edits depend on."""
    checkpoint = checkpoints("llama")
    config = settings(checkpoint)
    own = kept_key(config, checkpoint, dataset, BUDGET)
    same = settings(checkpoint, sites=["mlp_post.all", "resid_post.0", "resid_post.1", "resid_post.2"], pooling="last")
    same = same.model_copy(update={"dataset": same.dataset.model_copy(update={"path": "elsewhere.csv"})})
    same = same.model_copy(update={"interventions": same.interventions.model_copy(update={"tau": (9.0,)}), "seed": 5})
    assert kept_key(same, checkpoint, dataset, BUDGET) == own


def test_a_failing_stage_hands_nothing_over(checkpoints, dataset, prepared, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    checkpoint = checkpoints("bert")
    config = settings(checkpoint)
    monkeypatch.setattr(extraction, "write_ordinary", full)
    with pytest.raises(OSError, match="no space left"):
        extract(config, {"prepare": prepared}, tmp_path / "extract")
    assert take_over(kept_key(config, checkpoint, dataset, BUDGET)) is None
