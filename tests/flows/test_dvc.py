"""What DVC's own commands show of audits in a git repository: numbers and drawn points, of the workspace and between two commits."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from neuronlens.artifact import read_json
from tasks.pipeline import SHOWN
from tasks.versioning import Workspace
from tests import forked
from tests.conftest import labelled
from tests.models import save_checkpoint

HOSTILE = "</script><b>bold"
PLOTS = [name for plot in SHOWN["plots"] for name in plot]


@pytest.fixture(scope="module")
def folder(workspace_at: Callable[[Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of two sites, committed with tau 2 and then with tau 1; one concept would like to be markup."""
    root = tmp_path_factory.mktemp("repository") / "ours"
    workspace_at(root)
    save_checkpoint(root / "gpt2", "gpt2")
    rows = labelled(("finance", "health", HOSTILE))
    with (root / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "split"), *zip(rows.text, rows.concept, rows.split, strict=True)])

    def git(*words: str) -> None:
        who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)

    git("init", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for tau in (2, 1):
            sets = ["extract.sites=[resid_post.0, resid_post.last]", "fit.rows=all", "interventions.top=0.3"]
            sets += [f"interventions.tau={tau}", "interventions.tuned=null"]
            words = ["audit", "--checkpoint", "gpt2", "--dataset", "data.csv", "--out", "audits/one", "--no-flow"]
            assert main([*words, *(word for one in sets for word in ("--set", one))]) == 0
            git("add", ".")
            git("commit", "--quiet", "--message", f"tau {tau}")
    return root / "audits" / "one"


def dvc(folder: Path, *words: str) -> str:
    """What a command of DVC prints, run at the root of the repository."""
    return forked.dvc(folder.parents[1], *words)


def drawn(page: str) -> dict[str, Mapping[str, Any]]:
    """Plot -> what Vega is given, from DVC's page."""
    found = {}
    for name, rest in re.findall(r'<div id = "([^"]+)">\s*<script[^>]*>\s*var spec = (.*?)</script>', page, re.DOTALL):
        found[name] = json.JSONDecoder().raw_decode(rest)[0]
    return found


def points(spec: Mapping[str, Any], revision: str) -> list[Mapping[str, Any]]:
    return [row for row in spec["data"]["values"] if row["rev"] == revision]


def test_metrics_are_shown(folder: Path) -> None:
    shown = json.loads(dvc(folder, "metrics", "show", "--json"))[""]["data"]
    assert shown == {"audits/one/report/metrics.json": {"data": read_json(folder / "report/metrics.json")}}
    table = dvc(folder, "metrics", "show")
    assert "gaussian/mean_abs/selectivity" in table.replace("\n", " ")


def test_metrics_differ_between_commits_where_the_ranges_differ(folder: Path) -> None:
    told = json.loads(dvc(folder, "metrics", "diff", "HEAD~1", "HEAD", "--json"))
    (changes,) = told.values()
    assert [*told] == ["audits/one/report/metrics.json"]
    now = read_json(folder / "report/metrics.json")
    dose = changes["gaussian/mean_abs/dose_target"]
    assert dose["new"] == now["gaussian/mean_abs/dose_target"] < dose["old"], "a range half as wide holds less"
    assert dose["diff"] == pytest.approx(dose["new"] - dose["old"])
    assert not any(name.startswith("base/accuracy") for name in changes)


def test_every_plot_has_its_points(folder: Path, tmp_path: Path) -> None:
    dvc(folder, "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    found = drawn(page)
    assert [*found] == PLOTS
    document = read_json(folder / "report/audit.json")
    for name, spec in found.items():
        assert points(spec, "workspace"), name
        for axis in ("x", "y"):
            column = spec["encoding"][axis]["field"]
            assert all(row[column] is not None for row in points(spec, "workspace")), (name, column)
    accuracy = [row["accuracy"] for row in points(found["accuracy"], "workspace")]
    assert accuracy == [row["accuracy"] for row in document["base"]["concepts"]]
    assert len(points(found["edited"], "workspace")) == 3
    sites = {row["site"] for row in points(found["selectivity"], "workspace")}
    assert sites == {site["site"] for site in document["sites"]}
    assert HOSTILE not in page


def test_plots_set_revisions_side_by_side(folder: Path, tmp_path: Path) -> None:
    dvc(folder, "plots", "diff", "HEAD~1", "HEAD", "--out", str(tmp_path))
    found = drawn((tmp_path / "index.html").read_text())
    assert [*found] == PLOTS
    for name, spec in found.items():
        before, after = points(spec, "HEAD~1"), points(spec, "HEAD")
        assert len(before) == len(after) > 0, name
    selectivity = found["selectivity"]
    before, after = ({row["name"]: row for row in points(selectivity, revision)} for revision in ("HEAD~1", "HEAD"))
    assert {*before} == {*after}
    assert any(before[name] != {**after[name], "rev": "HEAD~1"} for name in before)
