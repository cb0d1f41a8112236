"""What could not be shown is listed with the smallest effect that would have been found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuronlens.report.document import audit_document
from neuronlens.report.sections.negative import POWER, minimum_detectable, negatives
from tests.report.artifacts import config, make_audit, results_table


def test_an_effect_of_the_detectable_size_is_found_in_the_stated_share_of_repetitions() -> None:
    error = 0.7
    effect = minimum_detectable(-1.96 * error, 1.96 * error)
    estimates = effect + error * np.random.default_rng(0).normal(size=200_000)
    assert np.mean(estimates - 1.96 * error > 0) == pytest.approx(POWER, abs=0.005)


def _audit(folder: Path, gain: float | None, drop: float) -> Any:
    results = results_table(drops=lambda *_: (drop, 0.0))
    return audit_document(config(), make_audit(folder, config(), results, gain=gain))


def test_every_claim_that_does_not_hold_is_there_once_and_no_other(tmp_path: Path) -> None:
    audit = _audit(tmp_path, gain=0.0, drop=0.3)
    found = [(row.claim, row.setting, row.site, row.verdict) for row in negatives(audit) if row.claim != "concept"]
    assert found == [
        (one["claim"], one["setting"], one["site"], one["verdict"])
        for one in audit["findings"]
        if one["verdict"] != "holds"
    ]
    assert len(set(found)) == len(found) > 5


@pytest.mark.parametrize(("drop", "shown"), [(0.3, 0), (0.05, 6), (-0.05, 6), (-0.3, 0)])
def test_a_concept_is_listed_where_the_interval_of_its_drop_holds_zero(tmp_path: Path, drop: float, shown: int) -> None:
    rows = [row for row in negatives(_audit(tmp_path, gain=0.2, drop=drop)) if row.claim == "concept"]
    assert len(rows) == shown
    for row in rows:  # test artifacts have intervals of the drop -+ 0.1
        assert row.detectable == pytest.approx(0.1 * (1.95996 + 0.84162) / 1.95996, rel=1e-4)


def test_the_numbers_are_those_that_decide(tmp_path: Path) -> None:
    audit = _audit(tmp_path, gain=0.01, drop=0.3)
    found = {row.claim: row for row in negatives(audit)}
    assert (found["site"].value, found["site"].low, found["site"].high) == pytest.approx((0.01, -0.04, 0.06))
    assert found["tuned_text"].logarithm
    assert found["tuned_text"].value == pytest.approx(-0.01)
    assert found["spares"].value == pytest.approx(0.0)
