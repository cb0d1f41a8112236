"""The benchmarks at a tiny size: they run, their sums add up, and their words say what their numbers say. No time is looked at."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config

from benchmarks import again, audit, extraction, fit, profile, selectivity, selectivity_tables, storage, suffix, tables
from benchmarks.__main__ import BENCHMARKS, RESULTS
from benchmarks.measure import APART, interleave
from neuronlens.activations.batching import collate
from neuronlens.artifact import write_table
from neuronlens.evaluation import frontier
from neuronlens.evaluation.matched import LEVELS
from neuronlens.example import corpus
from neuronlens.sites import Site
from tests.conftest import labelled, sentences

MODEL, SEEDS = "language_model", (0, 1)


@pytest.fixture(scope="module")
def runs(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("selectivity")
    dataset = labelled(("finance", "health"), fit=20, validation=0, test=0)
    write_table(folder / "rows.parquet", pa.table({"text": list(dataset.text), "label": list(dataset.concept)}))
    auxiliary = folder / "ordinary.txt"
    auxiliary.write_text("\n".join(sentences(4, seed=9)), encoding="utf-8")
    changes = {"fit__rows": "all", "evaluate__bootstrap": 100, "extract__sites": ["resid_post.middle"]}
    found = {}
    for seed in SEEDS:
        config = selectivity.settings(checkpoints("gpt2").path, folder / "rows.parquet", auxiliary, seed, **changes)
        found[MODEL, seed] = selectivity.compare(config, folder / str(seed))
    return found


@pytest.fixture(scope="module")
def combined(runs):
    return selectivity.combine(runs)


def test_a_difference_at_a_matched_drop_is_that_of_the_complements_drops(runs):
    checked = 0
    for findings in runs.values():
        drops = {
            (row["family"], row["measure"], row["target_drop"], row["concept"]): row["complement_drop"]
            for row in findings.frontier
            if row["reached"]
        }
        for row in findings.matched:
            own, theirs = (
                {
                    key[3]: drop
                    for key, drop in drops.items()
                    if key[:3] == (row[name], row["measure"], row["target_drop"])
                }
                for name in ("method", "against")
            )
            both = own.keys() & theirs.keys()
            assert row["concepts"] == len(both)
            if both:
                spared = np.mean([theirs[name] - own[name] for name in both])
                np.testing.assert_allclose(row["selectivity"], spared, atol=1e-12)
                checked += 1
    assert checked > len(LEVELS)


def test_every_family_is_measured_and_the_choice_is_one_setting_of_it(runs):
    for findings in runs.values():
        assert {row["family"] for row in findings.best} == set(selectivity.BEST)
        for row in findings.best:
            drops = (row["target_accuracy_drop"], row["complement_accuracy_drop"])
            np.testing.assert_allclose(row["selectivity"], drops[0] - drops[1], atol=1e-12)
            assert np.isfinite(row["log_perplexity_ratio"])
        settings = {row["family"]: row["setting"] for row in findings.best}
        assert settings["paper"].startswith("gaussian-")
        assert settings["whole"].startswith("full/mean_abs")
        assert settings["leace"] == "leace/all"


def test_splits_are_averaged_as_what_rests_on_different_rows_and_the_same_documents(combined):
    several = 0
    for row in combined["matched"]:
        for name in ("selectivity", "log_perplexity"):
            estimate = row[name]
            if estimate is None:
                assert row["reached"] == 0
                continue
            splits = np.array(estimate["splits"])
            value, *limits = splits.T
            assert estimate["mean"] == pytest.approx(value.mean())
            for end, limit in zip(("low", "high"), limits, strict=True):
                length = np.abs(limit - value)
                expected = length.mean() if name == "log_perplexity" else np.sqrt((length**2).sum()) / len(splits)
                assert abs(estimate[end] - estimate["mean"]) == pytest.approx(expected)
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
            several += len(splits) == len(SEEDS)
    assert several


def test_no_text_is_in_two_splits_or_known_to_a_model():
    rows = {"fit": 5, "validation": 2, "test": 3}
    tables = selectivity.draw_rows(0, 2, rows)
    texts = [text for table in tables for text in table["text"].to_pylist()]
    assert len(texts) == len(set(texts)) == 2 * 6 * 10
    known = corpus.generate(0)
    assert not set(texts) & {row.text for row in (*known.audited, *known.training)}
    for table in tables:
        assert table.group_by(["label", "split"]).aggregate([([], "count_all")]).num_rows == 6 * 3
        assert Counter(table["split"].to_pylist()) == {name: 6 * count for name, count in rows.items()}
    with pytest.raises(ValueError, match="more than one draw"):
        selectivity.draw_rows(0, 1000, rows)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.3, "above"), (-0.3, -0.1, "below"), (-0.1, 0.1, "undecided"), (0.0, 0.1, "undecided")],
)
def test_only_an_interval_clear_of_zero_decides(low, high, word):
    assert selectivity_tables.verdict({"mean": (low + high) / 2, "low": low, "high": high, "splits": []}) == word
    assert selectivity_tables.verdict(None) == "unreached"


def _matched(method, against, verdicts):
    limits = {"above": (0.1, 0.2), "below": (-0.2, -0.1), "undecided": (-0.1, 0.1)}
    for level, word in zip(LEVELS, verdicts, strict=True):
        low, high = limits.get(word, (0, 0))
        estimate = None if word == "unreached" else {"mean": (low + high) / 2, "low": low, "high": high, "splits": []}
        for measure in ("accuracy", "confidence"):
            row = {"model": MODEL, "site": "resid_post.1", "method": method, "against": against, "measure": measure}
            yield row | {"target_drop": level, "selectivity": estimate, "log_perplexity": estimate}


def test_the_reading_names_where_a_claim_fails():
    rows = [
        *_matched("paper", "whole", ["undecided", "above", "above", "below", "unreached"]),
        *_matched("tuned", "paper", ["above"] * 5),
    ]
    losses = [
        {"family": "paper", "measure": measure, "complement_drop": drop}
        for measure, drop in (("accuracy", -0.01), ("accuracy", None), ("accuracy", 0.2), ("confidence", 0.03))
    ]
    claim, tuned, room = selectivity_tables.readings(rows, losses)
    place = "language model, resid_post.1"
    for measure in ("accuracy", "confidence"):
        assert f"in {measure} holds in 2 of 4 comparisons" in claim
        assert f"in {measure} is ahead in 5 of 5 comparisons" in tuned
    assert claim.count(f"the reverse in 1 ({place} at 75%)") == 2
    assert claim.count(f"undecided in 1 ({place} at 10%)") == 2
    assert claim.count(f"not reached by both in 1 ({place} at 90%)") == 2
    assert "perplexity is lower in 1 of 4, higher in 2" in claim
    assert "perplexity is lower in 0 of 5, higher in 5" in tuned
    assert "undecided" not in tuned
    assert "-1.0 to +20.0 points of accuracy and +3.0 to +3.0 points of confidence" in room


def test_a_claim_that_is_never_decided_is_said_once():
    claim, *_ = selectivity_tables.readings([*_matched("paper", "whole", ["undecided"] * 5)], [])
    assert "in accuracy holds in 0 of 5 comparisons, undecided in all; in confidence holds in 0 of 5" in claim


@given(
    st.lists(st.tuples(st.floats(-0.2, 1), st.floats(-0.2, 1), st.booleans()), min_size=1, max_size=30),
)
def test_a_path_needs_no_more_than_its_own_settings(settings):
    """So that the test rows need not see settings that the validation rows have put on no path."""
    target, complement, extra = (np.array(column) for column in zip(*settings, strict=True))
    path = frontier._path(target, complement)
    kept = sorted({*path, *np.flatnonzero(extra)})
    assert [kept[i] for i in frontier._path(target[kept], complement[kept])] == path


def test_what_is_written_can_be_read(combined, tmp_path):
    file = tmp_path / "selectivity.json"
    selectivity_tables.write_results(file, combined, {"seeds": SEEDS})
    read = json.loads(file.read_text(encoding="utf-8"))
    assert read["seeds"] == list(SEEDS)
    for name, rows in combined.items():
        assert len(read[name]) == len(rows)
    table = selectivity_tables.markdown(combined, len(SEEDS), selectivity.BEST)
    for family in selectivity.BEST:
        assert f"| {family} | " in table
    widths = [line.count("|") for line in table.splitlines() if line.startswith("|")]
    assert set(widths) == {len(LEVELS) + 4, 4}


@pytest.mark.parametrize(
    ("module", "size", "titles"),
    [
        (fit, fit.Size(concepts=3, rows=20, neurons=6, sampled=2), 1),
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
    assert {"capture.read", "capture.on_host", "passes.over", "head.hidden_at"} <= set(names)
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
