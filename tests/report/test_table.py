"""The rows a terminal shows: the same methods at every site, and nothing heavy imported for them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from neuronlens.report.table import result_rows


def test_each_site_shows_ranges_whole_neurons_and_the_control(audit: Any) -> None:
    rows = result_rows(audit)
    expected = [
        ("gaussian", "mean_abs", 2.0),
        ("full", "mean_abs", None),
        ("random_neurons", "random", 2.0),
        ("gaussian", "d_prime", 2.0),
        ("full", "d_prime", None),
        ("tuned", "mean_abs", 2.0),
        ("random_ranges", "mean_abs", 2.0),
    ]
    for site in ("resid_post.0", "mlp_post.1"):
        assert [(row.kind, row.saliency, row.tau) for row in rows if row.site == site] == expected
    assert [row.chosen for row in rows if row.site == "mlp_post.1"] == [False] * 5 + [True] * 2
    assert all((row.top is None) == row.chosen for row in rows)  # concepts were tuned to different shares
    by_method = {(row["site"], row["role"], row["method"]): row for row in audit["summary"]}
    for row in rows:
        found = by_method[row.site, "chosen" if row.chosen else "sweep", row.method]
        assert row.target_drop == found["target_accuracy_drop"]
        assert row.selectivity_interval == (found["selectivity_low"], found["selectivity_high"])
        assert row.perplexity == found["perplexity"]


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, neuronlens.report.table; print(*{'numpy', 'pyarrow', 'altair', 'torch', 'jinja2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
