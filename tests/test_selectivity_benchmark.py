"""The comparison of methods at a tiny size: its numbers add up, and its words say what they say."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.selectivity.combined import combine
from benchmarks.selectivity.measured import compare
from benchmarks.selectivity.methods import BEST, settings
from benchmarks.selectivity.splits import draw_rows
from benchmarks.selectivity.tables import markdown, readings, verdict, write_results
from neuronlens.artifact import write_table
from neuronlens.evaluation import frontier
from neuronlens.evaluation.matched import LEVELS
from neuronlens.example import corpus
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
        config = settings(checkpoints("gpt2").path, folder / "rows.parquet", auxiliary, seed, **changes)
        found[MODEL, seed] = compare(config, folder / str(seed))
    return found


@pytest.fixture(scope="module")
def combined(runs):
    return combine(runs)


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
        assert {row["family"] for row in findings.best} == set(BEST)
        for row in findings.best:
            drops = (row["target_accuracy_drop"], row["complement_accuracy_drop"])
            np.testing.assert_allclose(row["selectivity"], drops[0] - drops[1], atol=1e-12)
            assert np.isfinite(row["log_perplexity_ratio"])
        chosen = {row["family"]: row["setting"] for row in findings.best}
        assert chosen["paper"].startswith("gaussian-")
        assert chosen["whole"].startswith("full/mean_abs")
        assert chosen["leace"] == "leace/all"


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
    tables = draw_rows(0, 2, rows)
    texts = [text for table in tables for text in table["text"].to_pylist()]
    assert len(texts) == len(set(texts)) == 2 * 6 * 10
    known = corpus.generate(0)
    assert not set(texts) & {row.text for row in (*known.audited, *known.training)}
    for table in tables:
        assert table.group_by(["label", "split"]).aggregate([([], "count_all")]).num_rows == 6 * 3
        assert Counter(table["split"].to_pylist()) == {name: 6 * count for name, count in rows.items()}
    with pytest.raises(ValueError, match="more than one draw"):
        draw_rows(0, 1000, rows)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.3, "above"), (-0.3, -0.1, "below"), (-0.1, 0.1, "undecided"), (0.0, 0.1, "undecided")],
)
def test_only_an_interval_clear_of_zero_decides(low, high, word):
    assert verdict({"mean": (low + high) / 2, "low": low, "high": high, "splits": []}) == word
    assert verdict(None) == "unreached"


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
    claim, tuned, room = readings(rows, losses)
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
    claim, *_ = readings([*_matched("paper", "whole", ["undecided"] * 5)], [])
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
    write_results(file, combined, {"seeds": SEEDS})
    read = json.loads(file.read_text(encoding="utf-8"))
    assert read["seeds"] == list(SEEDS)
    for name, rows in combined.items():
        assert len(read[name]) == len(rows)
    table = markdown(combined, len(SEEDS), BEST)
    for family in BEST:
        assert f"| {family} | " in table
    widths = [line.count("|") for line in table.splitlines() if line.startswith("|")]
    assert set(widths) == {len(LEVELS) + 4, 4}
