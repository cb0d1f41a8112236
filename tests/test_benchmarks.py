"""The benchmarks at a tiny size: they run, their sums add up, and their words say what their numbers say. No time is looked at."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from benchmarks import again, audit, extraction, fit, profile, scale, storage, suffix, tables
from benchmarks.__main__ import BENCHMARKS, RESULTS
from benchmarks.measure import APART, interleave
from neuronlens.activations.batching import collate
from neuronlens.sites import Site


@pytest.mark.parametrize(
    ("module", "size", "titles"),
    [
        (fit, fit.Size(concepts=3, rows=20, neurons=12, sampled=2), 2),
        (storage, storage.Size(examples=50, neurons=40, concepts=3), 2),
    ],
)
def test_a_benchmark_of_the_library_runs_at_any_size(module, size, titles):
    """It compares results before it compares times, so that a run is a test."""
    found = dict(module.run(size))
    assert len(found) == titles
    for ratios in found.values():
        for ratio in ratios:
            assert 0 < ratio.low <= ratio.median <= ratio.high


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_edits_are_measured_at_three_blocks_and_both_components(checkpoints, family):
    model = checkpoints(family).model
    encoded = [[token % 300 for token in row[:20]] for row in profile.rows_of(6)]
    rows = [collate(encoded, np.arange(6), pad_id=0, device="cpu")]
    with torch.inference_mode():
        found = suffix.sweeps(model, rows, rounds=1)
    sites = [f"{component}.{layer}" for layer in range(3) for component in ("resid_post", "mlp_post")]
    labels = [f"{site}, logits of 14 labels" for site in sites[-2:] if family == "gpt2"]
    assert sorted(ratio.name for ratio in found) == sorted([*sites, *labels])
    assert len(suffix.edits_of(model, Site(0, "mlp_post"))) == 168


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_extraction_is_measured_beside_the_blocks(checkpoints, family, monkeypatch):
    rows = [[token % 80 for token in row[:30]] for row in profile.rows_of(9)]
    monkeypatch.setattr(profile, "rows_of", lambda count: rows[:count])
    model = checkpoints(family).model
    with torch.inference_mode():
        found = extraction.extraction(model, 9, rounds=1)
        assert [ratio.name for ratio in found][1:] == ["the blocks again (noise)"]
        assert extraction.fixed_padding(model, 1, 60, rounds=1).name == "padded"
        assert [ratio.name for ratio in extraction.batch_sizes(model, 25, 60, rounds=1)] == [
            "512 tokens",
            "768 tokens",
            "3072 tokens",
        ]
    lengths = sorted(map(len, rows))
    (batch,) = extraction.batches(model, 1)
    assert extraction.padding(9).median == pytest.approx(1 - sum(lengths) / batch.input_ids.numel())


def test_a_shared_prompt_is_measured_on_equal_logits(checkpoints):
    with torch.inference_mode():
        (ratio,) = suffix.shared_prompts(checkpoints("gpt2").model, rows=3, shared=20, own=4, rounds=1)
    assert ratio.name == "resid_post.1"


def test_a_whole_audit_says_what_the_reference_program_says():
    """The comparison of times compares results first."""
    small = GPT2Config(vocab_size=300, n_positions=512, n_embd=16, n_layer=3, n_head=2)
    size = audit.Size(concepts=3, fit=4, test=2, documents=2, tokens=12, reference_concepts=2, rounds=1)
    plain, *against = audit.run(size, small)
    assert len(plain[1]) == 4 + 4 + 1
    assert [[ratio.name for ratio in ratios] for _, ratios in against] == [
        ["padded to 408 tokens", "padded to the longest of a batch"]
    ] * 2


def test_the_tables_of_the_document_are_the_results():
    document = tables.DOCUMENT.read_text(encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
    assert {*results} == {*BENCHMARKS}
    assert tables.filled(document, results) == document, "run python -m benchmarks, which writes both"
    for name in BENCHMARKS:
        assert f"<!-- {name} -->\n**" in document, f"{name} has no table"


def test_a_table_says_small_ratios_both_ways():
    ratio = {"name": "one", "median": 0.25, "low": 0.2, "high": 0.3, "seconds": 1.5}
    size = {"name": "two", "median": 1.5, "low": 1.5, "high": 1.5, "seconds": None}
    found = tables.filled(
        "a <!-- x -->\nold\n<!-- end --> b <!-- y -->\nkept\n<!-- end -->", {"x": {"title": [ratio, size]}}
    )
    assert "| one | 0.25 (1 / 4) | 0.2 to 0.3 | 1.5 |" in found
    assert "| two | 1.5 |  |  |" in found
    assert "old" not in found
    assert "kept" in found


def test_a_baseline_that_does_a_share_of_the_work_is_scaled(monkeypatch):
    """Two seconds for all of it, against one for a tenth."""
    clock = [0.0]
    monkeypatch.setattr("benchmarks.measure.time.process_time", lambda: clock[0])

    def spends(seconds):
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    (ratio,) = interleave(spends(1.0), {"whole": spends(2.0)}, share=0.1)
    assert (ratio.median, ratio.seconds) == (pytest.approx(0.2), pytest.approx(2.0))


def test_a_piece_that_is_set_apart_does_not_count(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.measure.time.process_time", lambda: clock[0])

    def pieces(apart, counted):
        def run():
            clock[0] += apart
            yield APART
            clock[0] += counted
            yield

        return run

    (ratio,) = interleave(pieces(0.0, 2.0), {"one": pieces(5.0, 1.0)})
    assert (ratio.median, ratio.seconds) == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_check_of_the_fit_finds_a_wrong_number():
    found, ours = fit.vectorised(fit.activations(fit.Size(concepts=2, rows=20, neurons=3)))
    edges = np.linspace(found.low, found.high, fit.BINS + 1, axis=1)
    expected = fit.by_scipy(found.values, edges)
    fit.check(ours, expected, np.arange(3))
    expected.numbers["kurtosis"][1, 2] += 1e-7
    with pytest.raises(AssertionError, match="kurtosis"):
        fit.check(ours, expected, np.arange(3))


def test_a_profile_parts_the_time_into_the_model_hooks_and_the_rest(checkpoints):
    rows = [[token % 300 for token in row[:40]] for row in profile.rows_of(12)]
    found = profile.profile(checkpoints("gpt2").model, rows, 100)
    assert min(found.hooks, found.inside) > 0
    assert found.hooks + found.inside < 1
    names, shares = zip(*found.functions, strict=True)
    assert {"capture.read", "capture.sent", "passes.over", "head.hidden_at"} <= set(names)
    assert [*shares] == sorted(shares, reverse=True)
    assert 0 < sum(shares) < 1 - found.inside


def test_the_rows_of_a_profile_are_as_long_as_real_ones_and_always_the_same():
    rows = profile.rows_of(3000)
    assert 60 < np.mean([len(row) for row in rows]) < 70
    assert rows[:3] == profile.rows_of(3000)[:3] != profile.rows_of(3000, seed=1)[:3]


def test_a_profiled_run_makes_every_pass_and_leaves_no_hook(checkpoints):
    rows = [[5, 6, 7]] * 6
    assert profile.passes_over(checkpoints("gpt2").model, rows, 6) == 3
    assert profile.passes_over(checkpoints("gpt2").model, rows, 1, keep=False) == 6


def test_an_audit_that_is_there_is_asked_for_in_every_way(monkeypatch, tmp_path):
    asked = []

    def seconds(root, *words):
        asked.append(words)
        return {("audit", "--no-flow"): 10.0 if len(asked) == 1 else 1.0, ("audit",): float(len(asked))}.get(words, 0.0)

    monkeypatch.setattr(again, "_seconds", seconds)
    alone, starting, served = again.again(tmp_path, 3)
    assert (alone.median, alone.seconds) == (0.1, 1.0)
    # 1 audit, 4 turns without Prefect, 4 without a server of which the first does not count
    assert (starting.low, starting.median, starting.high) == pytest.approx((0.7, 0.8, 0.9))
    assert (served.low, served.median, served.high) == pytest.approx((1.2, 1.3, 1.4))
    assert asked[9] == ("up",)
    assert asked[-1] == ("down",)


def test_the_tables_of_scaling_are_those_that_the_program_works_out() -> None:
    from benchmarks import scaling
    from benchmarks.tables import filled_with

    document = scaling.DOCUMENT.read_text(encoding="utf-8")
    assert document.count("<!-- end -->") == len(scaling.tables())
    assert filled_with(document, scaling.tables()) == document


def test_more_cards_than_parts_do_not_help() -> None:
    from benchmarks import scaling

    found = scaling.work("one", [31])
    five, eight = (scaling.seconds(found, cards, store=False)[0] for cards in (found.shards, found.shards + 3))
    assert five == eight == pytest.approx(scaling.pass_seconds() / found.shards)


def test_scale_says_where_it_was_measured(tmp_path, monkeypatch):
    """Statistics of a few rows, in this process; the ratios by what processes of their own would have said."""
    assert scale.in_process("summed", tmp_path, 40) > 1e8
    monkeypatch.setattr(scale, "GPT2Config", lambda: GPT2Config(n_layer=2, n_embd=32, n_head=2))
    monkeypatch.setattr(scale, "of_process", lambda what, rows="": 100 + len(what) + len(rows))
    found = dict(scale.run(rows=6, rounds=1))
    (where, several), (_, [summed]) = found.items()
    assert ("no accelerator" in where) != torch.cuda.is_available()
    assert [ratio.name for ratio in several] == ["throughput", "peak memory"]
    assert several[1].median == pytest.approx(104 / 105)
    assert summed.name == "20,000 rows, over 1,000"
    assert summed.median == pytest.approx(111 / 110)
