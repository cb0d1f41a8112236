"""Stages: each is run when something it depends on has changed, says what, and gives equal bytes for equal inputs."""

from __future__ import annotations

import json
import os
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from neuronlens.artifact import TIMING, is_intact, read_manifest, read_table
from neuronlens.comparison.document import compare
from neuronlens.errors import ArtifactError, UserError
from neuronlens.params import load_config
from neuronlens.stages import STAGES, audit_id, run_stage, stage_inputs, stage_params, why_not_current
from tests.conftest import labelled, sentences

NAMES = ("prepare", "extract", "fit", "evaluate", "report")
COMPUTED = NAMES[:4]  # what the report shows has tests of its own


@pytest.fixture(scope="module")
def inputs(checkpoints, tmp_path_factory):
    """A checkpoint, labelled text and ordinary text of one's own."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(checkpoints("llama").path, folder / "run")
    dataset = labelled(("finance", "health", "sports"), fit=6, test=2)
    columns = {"text": list(dataset.text), "label": list(dataset.concept), "split": list(dataset.split)}
    pq.write_table(pa.table(columns), folder / "topics.parquet")
    (folder / "ordinary.txt").write_text("\n".join(sentences(3, seed=9)))
    return folder


def settings(inputs, *overrides):
    return load_config(
        None,
        [
            f"checkpoint.path={inputs / 'run'}",
            f"dataset.path={inputs / 'topics.parquet'}",
            f"evaluate.auxiliary={inputs / 'ordinary.txt'}",
            "dataset.prompt='{text} Topic:'",
            "fit.rows=all",
            "interventions.top=0.3",
            "evaluate.bootstrap=100",
            *overrides,
        ],
    )


def run(config, audit, names=NAMES):
    """Stage -> why it was computed, of those that were."""
    outcomes = [run_stage(name, config, audit) for name in names]
    assert all(
        (outcome.outcome == "current") == (outcome.reason == "nothing it depends on has changed")
        for outcome in outcomes
    )
    return {outcome.stage: outcome.reason for outcome in outcomes if outcome.outcome == "computed"}


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """A whole audit."""
    audit = tmp_path_factory.mktemp("audits") / "one"
    assert run(settings(inputs), audit) == dict.fromkeys(NAMES, "not there yet")
    return audit


@pytest.fixture
def audit(finished, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(finished, tmp_path / "audit")


def own(inputs, tmp_path):
    """A copy of the inputs, to be changed."""
    return shutil.copytree(inputs, tmp_path / "own")


def test_the_stages_are_five_in_order_and_each_needs_earlier_ones():
    assert tuple(STAGES) == NAMES
    for at, stage in enumerate(STAGES.values()):
        assert set(stage.needs) <= set(NAMES[:at])


def test_every_stage_leaves_an_intact_artifact_that_explains_itself(finished):
    assert sorted(path.name for path in finished.iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert is_intact(finished / name)
        manifest = read_manifest(finished / name)
        assert manifest["stage"] == name
        assert {"key", "inputs", "params", "facts", "files", "versions", "schema_version"} <= set(manifest)
        assert json.loads((finished / name / TIMING).read_text())["seconds"] >= 0
    assert (finished / "extract" / "site=resid_post.2" / "shard=00000.parquet").exists()
    for name in ("fit/statistics.parquet", "fit/ranges.parquet", "evaluate/results.parquet", "prepare/dataset.parquet"):
        assert (finished / name).exists()


def test_equal_inputs_give_equal_bytes(finished, inputs, tmp_path):
    """Wherever they lie and wherever the audit is written; only the clock differs."""
    config = settings(own(inputs, tmp_path))
    run(config, tmp_path / "other" / "two")
    files = sorted(
        str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file() and path.name != TIMING
    )
    assert len(files) > 10
    assert files == sorted(
        str(path.relative_to(tmp_path / "other" / "two"))
        for path in (tmp_path / "other" / "two").rglob("*")
        if path.is_file() and path.name != TIMING
    )
    differing = [
        name for name in files if (finished / name).read_bytes() != (tmp_path / "other" / "two" / name).read_bytes()
    ]
    assert differing == []


def test_a_finished_audit_has_nothing_to_do(audit, inputs):
    assert run(settings(inputs), audit) == {}


def test_times_and_places_do_not_matter(audit, inputs, tmp_path):
    folder = own(inputs, tmp_path)
    for file in [*folder.rglob("*"), *audit.rglob("*")]:
        os.utime(file, (1_000_000_000, 1_000_000_000))
    (folder / "run" / "optimizer.pt").write_text("x")
    assert run(settings(folder), audit) == {}
    assert run(settings(folder), shutil.move(audit, tmp_path / "moved")) == {}


@pytest.mark.parametrize(
    ("override", "computed"),
    [
        ("interventions.tau=3", {"fit": "interventions.tau [2.0, 2.5] -> [3.0]", "report": None, "evaluate": None}),
        ("interventions.top=0.2", {"prepare": None, "fit": None, "evaluate": None, "report": None}),
        ("interventions.positions=last", {"fit": None, "evaluate": None, "report": None}),
        ("fit.minimum_rows=3", {"fit": "fit.minimum_rows 30 -> 3", "report": None}),
        ("evaluate.bootstrap=200", {"evaluate": "evaluate.bootstrap 100 -> 200", "report": None}),
        ("evaluate.scoring=free", {"extract": None, "fit": None, "evaluate": None, "report": None}),
        ("checkpoint.dtype=bfloat16", {"extract": None, "fit": None, "evaluate": None, "report": None}),
        ("dataset.max_tokens=20", {"prepare": None, "extract": None, "evaluate": None}),
        ("extract.sites=mlp_post.1", {"prepare": None, "extract": None, "fit": None, "evaluate": None, "report": None}),
    ],
)
def test_a_parameter_runs_again_what_depends_on_it(audit, inputs, override, computed):
    """And no more: a stage whose inputs came out the same is not computed again."""
    found = run(settings(inputs, override), audit)
    must, may = set(computed), set(computed) | {"fit", "report"}
    assert must <= set(found) <= (may if override.startswith("dataset") else must)
    for name, reason in computed.items():
        if reason is not None:
            assert found[name] == reason
    assert run(settings(inputs, override), audit) == {}


def test_one_changed_row_runs_again_what_depends_on_it(audit, inputs, tmp_path):
    folder = own(inputs, tmp_path)
    table = pq.read_table(folder / "topics.parquet").to_pylist()
    table[0]["text"] = "the bank the bank"
    pq.write_table(pa.Table.from_pylist(table), folder / "topics.parquet")
    found = run(settings(folder), audit, COMPUTED)
    assert found["prepare"] == "dataset changed"
    assert found["extract"] == "prepare changed"
    assert found["fit"] == "prepare, extract changed"
    assert "prepare" in found["evaluate"]


def test_a_file_rewritten_with_the_same_rows_stops_after_prepare(audit, inputs, tmp_path):
    """Other bytes, but what prepare makes of them is the same."""
    folder = own(inputs, tmp_path)
    pq.write_table(pq.read_table(folder / "topics.parquet"), folder / "topics.parquet", compression="none")
    assert run(settings(folder), audit, COMPUTED) == {"prepare": "dataset changed"}


def test_one_flipped_weight_bit_runs_again_what_depends_on_it(audit, inputs, tmp_path):
    folder = own(inputs, tmp_path)
    weights = folder / "run" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x10
    weights.write_bytes(content)
    found = run(settings(folder), audit, COMPUTED)
    assert found["prepare"] == found["extract"] == "checkpoint changed"
    assert "checkpoint" in found["evaluate"]


def test_the_report_is_made_again_for_another_checkpoint_with_the_same_numbers(audit, inputs, tmp_path):
    """generation_config.json changes the checkpoint's fingerprint, which the report shows, and no activation."""
    folder = own(inputs, tmp_path)
    file = folder / "run" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_new_tokens": 7}))
    found = run(settings(folder), audit)
    assert found["prepare"] == "checkpoint changed"
    assert "report" in found


def test_other_ordinary_text_runs_again_what_reads_it(audit, inputs, tmp_path):
    folder = own(inputs, tmp_path)
    (folder / "ordinary.txt").write_text("the bank and the court\n")
    found = run(settings(folder), audit, COMPUTED)
    assert found["extract"] == found["evaluate"] == "auxiliary changed"  # ordinary tokens are read from it, too
    assert "fit" not in found  # three documents are all used for perplexity, so there are no tokens to read


@pytest.mark.parametrize("name", ["prepare", "evaluate"])
def test_a_stage_depends_on_what_the_questions_are_and_not_on_where_they_lie(audit, inputs, tmp_path, name):
    stage = STAGES[name]

    def key(file, content):
        (tmp_path / file).write_text(content)
        config = settings(inputs, f"evaluate.questions={tmp_path / file}")
        assert "questions" not in stage_params(stage, config).get("evaluate", {})
        return stage_inputs(stage, config, audit)["questions"], stage_params(stage, config)

    assert key("a.jsonl", "one") == key("b.jsonl", "one")
    assert key("a.jsonl", "one")[0] != key("a.jsonl", "two")[0]
    assert stage_inputs(stage, settings(inputs), audit)["questions"] == "none"


@pytest.mark.parametrize("name", COMPUTED)
def test_a_damaged_artifact_is_made_again(audit, inputs, finished, name):
    file = next(path for path in sorted((audit / name).rglob("*.parquet")))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    found = run(settings(inputs), audit, COMPUTED)
    assert found == {name: "its files are not what they were when they were written"}
    assert file.read_bytes() == (finished / file.relative_to(audit)).read_bytes()


def test_a_changed_method_is_told(audit, inputs):
    from dataclasses import replace

    stage = replace(STAGES["fit"], method=STAGES["fit"].method + 1)
    config = settings(inputs)
    reason = why_not_current(stage, stage_inputs(stage, config, audit), stage_params(stage, config), audit / "fit")
    assert reason == "the method of fit changed"


def test_what_is_asked_for_is_computed(audit, inputs):
    outcome = run_stage("fit", settings(inputs), audit, force=True)
    assert (outcome.outcome, outcome.reason) == ("computed", "asked for")


def test_a_stage_without_the_one_before_it_is_an_error(inputs, tmp_path):
    with pytest.raises(ArtifactError, match=r"prepare/manifest\.json: cannot be read"):
        run_stage("extract", settings(inputs), tmp_path / "audit")
    assert not (tmp_path / "audit").exists()


def test_a_failing_stage_leaves_the_old_artifact(audit, inputs, monkeypatch):
    before = (audit / "fit" / "ranges.parquet").read_bytes()

    def broken(*_):
        raise RuntimeError("no more memory")

    monkeypatch.setattr("neuronlens.ranges.fit.fit", broken)
    with pytest.raises(RuntimeError, match="no more memory"):
        run_stage("fit", settings(inputs, "interventions.tau=3"), audit)
    assert (audit / "fit" / "ranges.parquet").read_bytes() == before
    assert sorted(path.name for path in audit.iterdir()) == sorted(NAMES)


def test_no_path_is_part_of_a_key(inputs, tmp_path):
    one, two = settings(inputs), settings(own(inputs, tmp_path))
    for stage in STAGES.values():
        params = stage_params(stage, one)
        assert params == stage_params(stage, two)
        assert str(inputs) not in json.dumps(params)


def test_the_name_of_an_audit(inputs, finished):
    fingerprint = read_manifest(finished / "prepare")["facts"]["checkpoint"]["fingerprint"]
    assert audit_id(settings(inputs)) == f"run-{fingerprint[:8]}-topics"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.auxiliary=./nowhere.txt", "no such file"),
        ("evaluate.questions=./nowhere.jsonl", r"evaluate\.questions: nowhere\.jsonl: no such file"),
        ("dataset.path=./nowhere.csv", "no such file"),
        ("checkpoint.path=./nowhere", "no such folder"),
    ],
)
def test_an_input_that_is_missing_is_the_users_mistake(inputs, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        run_stage("prepare", settings(inputs, override), tmp_path / "audit")


def test_a_folder_of_somebody_else_is_left_alone(inputs, tmp_path):
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is no artifact of NeuronLens"):
        run_stage("prepare", settings(inputs), tmp_path)
    assert [path.name for path in (tmp_path / "prepare").iterdir()] == ["thesis.txt"]


def test_names_that_differ_in_nuls_at_their_end_are_names_of_different_concepts(inputs, tmp_path):
    """An audit of such names, and what a comparison says of it, is that of other names, but for what is drawn by lot for a name."""
    plain = {"\0": "a", "a": "b", "a\0": "c", "a\0\0": "d"}
    labels = dict(zip(plain, ("finance", "health", "science", "sports"), strict=True))
    dataset, tables = labelled(tuple(plain), fit=6, test=2), []
    for own in ({name: name for name in plain}, plain):
        audit = tmp_path / own["\0"].replace("\0", "nul")
        columns = {"text": list(dataset.text), "label": [own[name] for name in dataset.concept]}
        pq.write_table(pa.table({**columns, "split": list(dataset.split)}), tmp_path / "topics.parquet")
        told = json.dumps({own[name]: label for name, label in labels.items()})
        run(settings(inputs, f"dataset.path={tmp_path / 'topics.parquet'}", f"dataset.labels={told}"), audit)
        compare(audit, audit, audit / "compared")
        ranges = read_table(audit / "fit" / "ranges.parquet")
        found = [
            read_table(audit / "fit" / "statistics.parquet").drop_columns("random"),
            ranges.filter((pc.field("range").isin(["gaussian", "full"])) & (pc.field("saliency") != "random")),
            read_table(audit / "extract" / "ordinary" / "tokens.parquet"),
            read_table(audit / "compared" / "drift.parquet"),
            read_table(audit / "compared" / "changes.parquet", ["quantity", "concept", "site", "method", "n"]),
        ]
        tables.append([table.to_pylist() for table in found])
    for ours, others in zip(*tables, strict=True):
        assert {row["concept"] for row in ours} - {"", None} == {*plain}
        renamed = [row | {"concept": plain.get(row["concept"], row["concept"])} for row in ours]
        assert renamed == others
