"""The benchmark of gates counts what it says, on audits as anybody runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.calibration.__main__ import RESULTS, table
from benchmarks.calibration.draws import Draw, draw
from benchmarks.calibration.planted import DROP, plant
from benchmarks.calibration.rates import Rate, any_failed, rates
from neuronlens.artifact import read_json
from neuronlens.comparison.gates import Number
from neuronlens.example import Example
from neuronlens.example.corpus import generate
from neuronlens.example.measure import classifier_accuracy
from neuronlens.params import load_config
from tests.conftest import ROOT

STILL = {"base_accuracy drop": Number(0.0, 0.0, 0.0), "selectivity drop": Number(0.0, -0.1, 0.1)}
STILL["drift.max_wasserstein"] = Number(0.1, 0.0, 0.2)


def drawn(seed: int, accuracy: Number, drop: Number) -> Draw:
    worse = {**STILL, "base_accuracy drop": drop}
    return Draw(seed, {"base_accuracy": accuracy}, STILL, worse)


def test_a_gate_is_counted_at_its_bound_and_at_the_truth() -> None:
    draws = [
        drawn(1, Number(0.80, 0.75, 0.82), Number(0.05, 0.03, 0.07)),  # wholly below the mean, 0.85
        drawn(2, Number(0.90, 0.86, 0.94), Number(0.05, 0.01, 0.09)),
        drawn(3, Number(0.85, 0.80, 0.90), Number(0.05, 0.03, 0.07)),
        drawn(4, Number(0.85, 0.80, 0.90), Number(0.01, -0.01, 0.03)),
    ]
    config = load_config(overrides=["gates={accuracy: base_accuracy >= 0.78}"])
    found = {(rate.checkpoint, rate.rule): rate for rate in rates(draws, config)}
    assert found["plain", "base_accuracy >= 0.78"] == Rate(
        "plain", "base_accuracy >= 0.78", pytest.approx(0.85), failed=0.0, undecided=0.25
    )
    assert found["plain", "base_accuracy >= truth"].failed == 0.25
    assert found["worse", "base_accuracy drop <= 0.02"].failed == 0.5
    assert found["worse", "base_accuracy drop <= 0"].undecided == 0.25
    assert found["again", "base_accuracy drop <= 0"].failed == 0.0
    assert any_failed(draws, config) == 0.0
    assert any_failed(draws, load_config(overrides=["gates={accuracy: base_accuracy >= 0.83}"])) == 0.25


def test_a_draw_is_audited_and_the_planted_loss_is_what_it_is_called(example: Example, tmp_path: Path) -> None:
    rows = [row for row in generate(20_000).audited if row.split == "fit"][:200]
    checkpoints = plant(example.classifiers[-1], tmp_path, rows, halvings=5)
    plain, worse = (classifier_accuracy(checkpoints[name], rows) for name in ("plain", "worse"))
    assert plain - worse == pytest.approx(DROP, abs=0.03)
    found = draw(1, checkpoints, {"fit": 6, "validation": 3, "test": 4})
    assert {"base_accuracy", "selectivity"} <= found.audit.keys()
    for numbers in (found.again, found.worse):
        assert {"base_accuracy drop", "selectivity drop", "drift.max_wasserstein"} <= numbers.keys()
    assert found.again["drift.max_wasserstein"].value < found.worse["drift.max_wasserstein"].value


def test_what_is_written_is_what_was_measured() -> None:
    kept = read_json(RESULTS)
    told = table([Rate(**rate) for rate in kept["rates"]], kept["any_failed"], kept["draws"])
    assert told in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert kept["planted"] == DROP
