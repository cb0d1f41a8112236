"""What is foretold of an audit: at least as many edits as there are, on the ways that they take."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuronlens.artifact import write_table
from neuronlens.params import load_config
from neuronlens.plan import plan
from neuronlens.stages import run_stage
from tests.conftest import labelled, sentences
from tests.models import CONCEPTS


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Overrides that name the rows and the ordinary text."""
    folder = tmp_path_factory.mktemp("plan")
    rows = labelled(CONCEPTS, fit=8, validation=3, test=4)
    columns = {"text": list(rows.text), "label": list(rows.concept), "split": list(rows.split)}
    write_table(folder / "rows.parquet", pa.table(columns))
    (folder / "ordinary.txt").write_text("\n".join(sentences(7, seed=9)), encoding="utf-8")
    return [
        f"dataset.path={folder / 'rows.parquet'}",
        f"evaluate.auxiliary={folder / 'ordinary.txt'}",
        "evaluate.auxiliary_rows=3",
        "evaluate.bootstrap=100",
        "fit.rows=all",
        "interventions.top=[0.3,1.0]",
    ]


@pytest.mark.parametrize("more", [[], ["interventions.tuned=null"], ["interventions.controls=[]"], ["preset=official"]])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_an_audit_has_no_more_edits_than_planned(checkpoints, given, family, more, tmp_path):
    config = load_config(None, [f"checkpoint.path={checkpoints(family).path}", *given, *more])
    planned = {step.what: step for step in plan(config).steps}
    for stage in ("prepare", "extract", "fit", "evaluate"):
        run_stage(stage, config, tmp_path)
    facts = json.loads((tmp_path / "evaluate" / "manifest.json").read_text())["facts"]
    (foretold,) = [int(what.split()[1]) for what in planned if what.startswith("test: ") and " edits by " in what]
    assert facts["edits"] <= foretold <= 3 * facts["edits"]
    assert any(what.startswith("validation: ") and " edits by " in what for what in planned) == (
        config.interventions.tuned is not None
    )
    assert any("perplexity" in what for what in planned) == (family == "gpt2")
    (fitted,) = [what for what in planned if what.endswith(" ranges")]
    ranges = pq.read_metadata(tmp_path / "fit" / "ranges.parquet").num_rows
    assert ranges <= int(fitted.split()[-2].replace(",", "")) <= 2 * ranges


def test_the_parts_add_up(checkpoints, given):
    config = load_config(None, [f"checkpoint.path={checkpoints('llama').path}", *given, "extract.sites=resid_post.all"])
    found = plan(config)
    assert found.rows == {"fit": 32, "validation": 12, "test": 16}
    assert found.seconds == pytest.approx(sum(step.seconds for step in found.steps))
    assert found.passes == pytest.approx(sum(step.passes for step in found.steps if step.passes is not None))
    assert [step.stage for step in found.steps if step.passes is None] == ["fit"]
    assert 0 <= found.padding < 1
    assert found.stored_bytes > 3 * 16 * 60
    extract = found.steps[0]
    assert extract.stage == "extract"
    assert 1 < extract.passes < 1.5, "one pass, and the head for a token a row"
    words = [step.what for step in found.steps]
    assert sum("ordinary tokens: 3 documents" in what for what in words) == 1
    # three sites, three ways
    assert sum(what.startswith("test: ") and " edits by " in what for what in words) == 3
    (together,) = [step for step in found.steps if step.what.startswith("joint: ")]
    assert together.what == "joint: 4 edits of the best sites by at most blocks 1 on"
    (first,) = [step for step in found.steps if step.what.startswith("test: ") and "blocks 1 to 2" in step.what]
    count = int(first.what.split()[1].replace(",", ""))
    assert 0 < first.passes / count < together.passes / 4 < 16 / 60
    assert sum("4 joint edits by at most blocks 1 on, and the head" in what for what in words) == 1
    assert sum("unedited, from hidden states of the pass of extract" in what for what in words) == 2
    assert not any("would not fit" in what for what in words)


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ([], 0),
        (["extract.sites=resid_post.all"], 4),
        (["extract.sites=resid_post.all", "interventions.joint=[2,3,4,9]"], 8),
        (["extract.sites=resid_post.all", "interventions.joint=[]"], 0),
        (["extract.sites=resid_post.all", "interventions.tuned=null"], 0),
    ],
)
def test_joint_edits_are_counted(checkpoints, given, more, count):
    steps = plan(load_config(None, [f"checkpoint.path={checkpoints('bert').path}", *given, *more])).steps
    assert [int(step.what.split()[1]) for step in steps if step.what.startswith("joint: ")] == (
        [count] if count else []
    )


def test_a_shared_prompt_and_a_lack_of_memory_are_told(checkpoints, given, monkeypatch):
    monkeypatch.setattr("neuronlens.activations.hidden.available_memory", lambda: 0)
    prompt = "the court : law the bank : finance the goal : sports the cell : health {text} Topic:"
    asked = ["extract.sites=resid_post.0", f"dataset.prompt='{prompt}'"]
    words = [
        step.what
        for step in plan(load_config(None, [f"checkpoint.path={checkpoints('gpt2').path}", *given, *asked])).steps
    ]
    assert any("the shared prompt" in what for what in words)
    assert sum("would not fit into memory" in what for what in words) == 2


def test_the_last_block_is_told_to_follow_one_token_where_no_other_is_read(checkpoints, given, monkeypatch):
    config = [f"checkpoint.path={checkpoints('gpt2').path}", *given, "extract.batch_tokens=40"]
    whole = plan(load_config(None, config)).steps[0]
    monkeypatch.setattr("neuronlens.activations.ordinary.TEXTS", 2)
    less = plan(load_config(None, config)).steps[0]
    assert "one token" not in whole.what, "tokens are drawn from all fit rows"
    assert "of the last block what one token needs on " in less.what
    assert less.passes < whole.passes
    assert "one token" not in plan(load_config(None, [*config, "extract.pooling=mean"])).steps[0].what


def test_what_is_left_out_without_rows_is_not_counted_and_told(checkpoints, given):
    config = [f"checkpoint.path={checkpoints('gpt2').path}", *given]
    kept, summed = (plan(load_config(None, [*config, *more])) for more in ([], ["extract.disk_budget=1 kB"]))
    assert kept.keeps_rows
    assert kept.notes == []
    assert not summed.keeps_rows
    assert "more than extract.disk_budget=1 kB" in summed.notes[0]
    assert "the tuned method" in summed.notes[-1]
    assert summed.passes < kept.passes
    assert summed.running_bytes > summed.stored_bytes
