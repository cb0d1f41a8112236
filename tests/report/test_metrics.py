"""What other tools show of an audit: few numbers, and rows that can be drawn without stacking one on another."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from neuronlens.report.metrics import concept_metrics, meant, metrics, plot_rows
from neuronlens.report.table import main_summaries
from tests.report.artifacts import CONCEPTS


def test_every_main_method_has_a_bar_of_its_own(audit: Any) -> None:
    rows = plot_rows(audit)["main"]
    main = [*main_summaries(audit)]
    assert [row["selectivity"] for row in rows] == [row["selectivity"] for row in main]
    assert {row["site"] for row in rows} == {"resid_post.0", "mlp_post.1"}
    names = [row["name"] for row in rows]
    assert len({*names}) == len(names), "bars of one name are stacked"
    assert max(map(len, names)) <= 35, "DVC's charts cut longer ones"


def test_concepts_are_those_of_the_tuned_ranges_at_the_deepest_site(audit: Any) -> None:
    rows = plot_rows(audit)["edited"]
    assert [row["concept"] for row in rows] == list(CONCEPTS)
    own = [row for row in audit["results"] if (row["site"], row["method"]) == ("mlp_post.1", "tuned")]
    assert [row["selectivity"] for row in rows] == [row["selectivity"] for row in own]
    untuned = {name: [row for row in audit[name] if row["role"] == "sweep"] for name in ("results", "summary")}
    rows = plot_rows({**audit, **untuned})["edited"]
    first = audit["settings"][0]
    method = f"gaussian-2/{first['saliency']}/0.3/zero/all"
    own = [row for row in audit["results"] if (row["site"], row["method"]) == ("mlp_post.1", method)]
    assert [row["selectivity"] for row in rows] == [row["selectivity"] for row in own] != []


def test_accuracies_are_those_of_the_unedited_model(audit: Any) -> None:
    rows = plot_rows(audit)["accuracy"]
    found = metrics(audit)
    assert {f"base/accuracy/{row['concept']}": round(row["accuracy"], 6) for row in rows}.items() <= found.items()


@pytest.mark.parametrize("noise", [1e-9, -1e-9])
def test_digits_that_say_nothing_are_in_no_diff(audit: Any, noise: float) -> None:
    """Batches of another size, or another machine, move losses by roundings of float32 and means of shares by those of float64."""
    moved = copy.deepcopy(audit)
    for row in moved["summary"]:
        row["perplexity_ratio"] *= 1 + noise
        row["base_perplexity"] *= 1 + noise
        row["selectivity"] += noise * 1e-6
    assert moved != audit
    assert metrics(moved) == metrics(audit)
    assert concept_metrics(moved) == concept_metrics(audit)


def test_a_row_more_and_a_thousandth_of_perplexity_are_in_a_diff(audit: Any) -> None:
    for name, before, after in (
        ("tuned/selectivity", 0.0, 1 / 1_000_000),
        ("base/accuracy", 0.94123, 0.94123 + 1 / 120_000),
        ("base/perplexity", 1057.2094, 1057.2094 * 1.001),
        ("tuned/perplexity_ratio", 1.0, 1.001),
    ):
        assert meant(name, before) != meant(name, after)
    assert str(meant("tuned/selectivity", -1e-17)) == "0.0"


def test_names_cannot_leave_the_script_that_dvc_puts_them_into(audit: Any) -> None:
    name = "</script><img src=x>\u202e"
    renamed = {
        **audit,
        "results": [{**row, "concept": name} for row in audit["results"]],
        "base": {**audit["base"], "concepts": [{**row, "concept": name} for row in audit["base"]["concepts"]]},
    }
    for rows in plot_rows(renamed).values():
        assert rows
        assert not any(mark in str(value) for row in rows for value in row.values() for mark in "<\u202e")
