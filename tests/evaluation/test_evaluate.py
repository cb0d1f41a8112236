"""The stage `evaluate`: validation rows choose, test rows judge, and every table says the same."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuronlens.artifact import read_manifest, read_table
from neuronlens.evaluation.deciding import Unedited
from neuronlens.evaluation.measure import MEASURED
from neuronlens.evaluation.methods import CONTROLS
from neuronlens.evaluation.questions import COLUMNS
from neuronlens.evaluation.sweep import IDENTITY, PERPLEXITY
from neuronlens.params import load_config
from neuronlens.stages import run_stage
from tests.conftest import labelled
from tests.evaluation.tables import rows_of, table_of, tables_at

CONCEPTS = ("finance", "health", "sports")
PROMPT = "{text} Topic:"
STAGES = ("prepare", "extract", "fit", "evaluate")
CHOSEN = {"paper", "whole", "tuned", "tuned/random_neurons", "tuned/random_ranges", "tuned/other_concept"}


@pytest.fixture(scope="module")
def audit(checkpoints, auxiliary, tmp_path_factory):
    """`audit(family, rows, *overrides)` is the folder that the stage `evaluate` leaves behind."""
    made = {}

    def make(family, rows, *overrides):
        key = family, tuple(rows), overrides
        if key not in made:
            folder = tmp_path_factory.mktemp("audit")
            pq.write_table(table_of(rows), folder / "topics.parquet")
            given = [f"checkpoint.path={checkpoints(family).path}", f"dataset.path={folder / 'topics.parquet'}"]
            given += ["fit.rows=all", "interventions.top=0.3", "evaluate.bootstrap=100"]
            if family != "bert":
                given += [f"dataset.prompt='{PROMPT}'", f"evaluate.auxiliary={auxiliary}"]
            config = load_config(None, [*given, *overrides])
            for stage in STAGES:
                run_stage(stage, config, folder / "audit")
            made[key] = folder / "audit" / "evaluate"
        return made[key]

    return make


@pytest.fixture(scope="module")
def with_validation():
    return rows_of(labelled(CONCEPTS, fit=8, validation=3, test=4))


def rows_at(folder, name):
    return read_table(folder / f"{name}.parquet").to_pylist()


def judged_at(folder):
    """The rows of results.parquet, and of chosen.parquet behind them."""
    return rows_at(folder, "results") + rows_at(folder, "chosen")


def has_columns(file, types):
    """Whether a table has columns of these names and types, in this order."""
    schema = read_table(file).schema
    return list(zip(schema.names, schema.types, strict=True)) == list(types.items())


def limits(*names):
    """Types of columns with their 95 % limits."""
    return {f"{name}{end}": pa.float64() for name in names for end in ("", "_low", "_high")}


EVERY_TABLE = {f"{name}.parquet" for name in ("results", "validation", "chosen", "contrasts", "frontier", "matched")}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_hidden_states_that_extraction_left_change_no_byte(
    checkpoints, auxiliary, with_validation, family, tmp_path, monkeypatch
):
    """They save the unedited passes over the rows, and nothing else."""
    pq.write_table(table_of(with_validation), tmp_path / "topics.parquet")
    given = [f"checkpoint.path={checkpoints(family).path}", f"dataset.path={tmp_path / 'topics.parquet'}"]
    given += ["fit.rows=all", "interventions.top=0.3", "evaluate.bootstrap=100", "extract.batch_tokens=40"]
    given += ["extract.sites=[resid_post.0,mlp_post.1,resid_post.2]"]
    config = load_config(None, given)
    ran: list[int] = []
    whole = Unedited.of
    monkeypatch.setattr(Unedited, "of", lambda *args: ran.append(0) or whole(*args))
    for stage in STAGES:
        run_stage(stage, config, tmp_path / "audit")
        if stage == "evaluate":
            break
    checked = len(ran)
    together = {tuple(row["sites"]) for row in rows_at(tmp_path / "audit" / "evaluate", "joint") if row["concept"]}
    first = tmp_path / "first"
    shutil.copytree(tmp_path / "audit" / "evaluate", first)
    run_stage("evaluate", config, tmp_path / "audit", force=True)
    batches = len(ran) - 2 * checked
    assert together
    assert checked == 2 * 3 + len(together), "the check of fidelity alone, on both splits at three sites, and together"
    assert batches > 2
    again = tmp_path / "audit" / "evaluate"
    assert tables_at(first) == tables_at(again)
    for name in tables_at(first):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_stage_writes_every_table(audit, with_validation, family):
    folder = audit(family, with_validation)
    text = {"documents/site=resid_post.2.parquet"} if family == "llama" else set()
    assert tables_at(folder) == EVERY_TABLE | {"rows/site=resid_post.2.parquet"} | text
    schema = read_table(folder / "results.parquet").schema
    assert schema.names == [*IDENTITY, "n_target", "n_complement", *MEASURED, *PERPLEXITY, *COLUMNS]
    assert read_table(folder / "chosen.parquet").schema == schema
    tried = read_table(folder / "validation.parquet").schema
    assert tried.names == [*IDENTITY, "n_target", "n_complement", *MEASURED]
    text = {
        "site",
        "concept",
        "method",
        "setting",
        "role",
        "saliency",
        "range",
        "base",
        "gate",
        "operator",
        "positions",
    }
    whole = {"neurons", "n_target", "n_complement", "seed"}
    for part in (schema, tried):
        assert {name for name in part.names if pa.types.is_string(part.field(name).type)} == text
        assert {name for name in part.names if pa.types.is_integer(part.field(name).type)} == whole
        assert all(part.field(name).type == pa.float64() for name in {*part.names} - text - whole)
    columns = {
        **dict.fromkeys(("site", "concept", "family", "measure"), pa.string()),
        "target_drop": pa.float64(),
        "reached": pa.bool_(),
        "reached_share": pa.float64(),
        **limits("complement_drop", "log_perplexity"),
        "settings": pa.string(),
    }
    assert has_columns(folder / "frontier.parquet", columns)
    columns = {
        **dict.fromkeys(("site", "measure", "against"), pa.string()),
        "target_drop": pa.float64(),
        **dict.fromkeys(("concepts", "method_reaches", "other_reaches"), pa.int32()),
        **limits("selectivity", "log_perplexity"),
    }
    assert has_columns(folder / "matched.parquet", columns)
    columns = {
        **dict.fromkeys(("site", "method", "against", "effect"), pa.string()),
        "concepts": pa.int32(),
        **dict.fromkeys(("mean", "low", "high"), pa.float64()),
    }
    assert has_columns(folder / "contrasts.parquet", columns)
    columns = {
        **dict.fromkeys(("concept", "role", "method"), pa.string()),
        "row": pa.int64(),
        "predicted": pa.string(),
        "correct": pa.bool_(),
        "confidence": pa.float32(),
        **dict.fromkeys(("changed", "looked_at"), pa.int32()),
    }
    assert has_columns(folder / "rows" / "site=resid_post.2.parquet", columns)
    found = judged_at(folder)
    assert all((row["perplexity"] is None) == (family == "bert") for row in found)
    assert {row["n_target"] for row in found} == {4}
    assert {row["n_target"] for row in rows_at(folder, "validation")} == {3}
    assert {row["role"] for row in rows_at(folder, "results")} == {"sweep", "tuned"}
    assert {row["role"] for row in rows_at(folder, "chosen")} == {"chosen"}
    assert {row["role"] for row in rows_at(folder, "validation")} == {"sweep", "tuned"}
    keys = [(row["site"], row["concept"], row["role"], row["method"]) for row in found]
    assert len({*keys}) == len(keys)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_the_validation_rows_chose_is_repeated_under_the_familys_name(audit, with_validation, family):
    folder = audit(family, with_validation)
    found, tried, chosen = (rows_at(folder, name) for name in ("results", "validation", "chosen"))
    assert {row["method"] for row in chosen} == CHOSEN
    assert len(chosen) == len(CONCEPTS) * len(CHOSEN)
    adjusted = {"target_p_adjusted", "complement_p_adjusted"}  # over the concepts and sites of the name
    for row in chosen:
        (own,) = (
            other
            for other in found
            if (other["role"] == "tuned") == row["method"].startswith("tuned")
            and (other["concept"], other["method"]) == (row["concept"], row["setting"])
        )
        assert {name for name in row if row[name] != own[name]} - adjusted == {"method", "role"}
        if row["method"] in ("paper", "whole", "tuned"):
            scores = {
                other["setting"]: other["selectivity"] + other["confidence_selectivity"]
                for other in tried
                if other["concept"] == row["concept"]
                and (
                    other["role"] == "tuned"
                    if row["method"] == "tuned"
                    else (other["role"], other["saliency"]) == ("sweep", "mean_abs")
                    and other["range"] == {"paper": "gaussian", "whole": "full"}[row["method"]]
                )
            }
            assert scores[row["setting"]] == pytest.approx(max(scores.values()), abs=2e-6)
        else:
            (tuned,) = (r for r in chosen if (r["method"], r["concept"]) == ("tuned", row["concept"]))
            same = ("top", "tau", "threshold", "operator", "positions")
            assert {name: row[name] for name in same} == {name: tuned[name] for name in same}
            gate = "" if tuned["gate"] == "none" else f"+{tuned['gate']}"
            assert (row["base"], row["range"]) == (tuned["range"] + gate, row["method"].removeprefix("tuned/"))


def test_of_the_tuned_controls_only_those_of_what_was_chosen_are_run(audit, with_validation):
    folder = audit("bert", with_validation)
    found = rows_at(folder, "results")
    settings_of = {(row["concept"], row["setting"]) for row in rows_at(folder, "chosen")}
    controls = [row for row in found if row["role"] == "tuned" and row["range"] in CONTROLS]
    assert len(controls) == 3 * len(CONCEPTS)
    assert {(row["concept"], row["setting"]) for row in controls} <= settings_of


def test_rows_add_up_to_the_results(audit, with_validation):
    folder = audit("llama", with_validation)
    truth = {i: concept for i, (_, concept, _) in enumerate(with_validation)}
    rows = {}
    for row in rows_at(folder / "rows", "site=resid_post.2"):
        rows.setdefault((row["concept"], row["role"], row["method"]), []).append(row)
    results = rows_at(folder, "results")
    assert {*rows} == {(row["concept"], row["role"], row["method"]) for row in results}
    for result in results:
        own = rows[result["concept"], result["role"], result["method"]]
        assert len(own) == 12
        for group in ("target", "complement"):
            members = [row for row in own if (truth[row["row"]] == result["concept"]) == (group == "target")]
            assert all(row["correct"] == (row["predicted"] == truth[row["row"]]) for row in members)
            assert result[f"{group}_accuracy"] == pytest.approx(np.mean([row["correct"] for row in members]))
            assert result[f"{group}_confidence"] == pytest.approx(np.mean([row["confidence"] for row in members]))
            looked_at = sum(row["looked_at"] for row in members)
            assert result[f"dose_{group}"] == pytest.approx(sum(row["changed"] for row in members) / looked_at)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_equal_inputs_give_equal_bytes(audit, with_validation, family):
    one, other = audit(family, with_validation), audit(family, with_validation, "evaluate.questions=null")
    assert one != other
    for name in tables_at(one):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_the_labels_of_test_rows_choose_nothing(audit, with_validation):
    moved = dict(zip(CONCEPTS, (*CONCEPTS[1:], CONCEPTS[0]), strict=True))
    wrong = [(text, moved[own] if split == "test" else own, split) for text, own, split in with_validation]
    one, other = (audit("bert", rows) for rows in (with_validation, wrong))
    chosen = [
        {(row["concept"], row["method"]): row["setting"] for row in rows_at(folder, "chosen")}
        for folder in (one, other)
    ]
    assert chosen[0] == chosen[1]
    assert (one / "validation.parquet").read_bytes() == (other / "validation.parquet").read_bytes()
    assert (one / "results.parquet").read_bytes() != (other / "results.parquet").read_bytes()


def first_candidates(found, concept):
    """What is chosen where nothing can be told: the first that the configuration names."""
    tuned = next(row["method"] for row in found if (row["role"], row["concept"]) == ("tuned", concept))
    return {"paper": "gaussian-2/mean_abs/0.3/zero/all", "whole": "full/mean_abs/0.3/zero/all", "tuned": tuned}


def chosen_for(found, concept):
    return {
        row["method"]: row["setting"]
        for row in found
        if (row["role"], row["concept"]) == ("chosen", concept) and row["method"] in ("paper", "whole", "tuned")
    }


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_without_validation_rows_the_first_candidates_are_judged(audit, with_validation, family):
    """As where all texts of the validation split also stand in the test split."""
    tested = {concept: text for text, concept, split in with_validation if split == "test"}
    leaked = [(tested[own] if split == "validation" else text, own, split) for text, own, split in with_validation]
    folder = audit(family, leaked)
    names = {"results.parquet", "chosen.parquet", "contrasts.parquet", "rows/site=resid_post.2.parquet"}
    names |= {"documents/site=resid_post.2.parquet"} if family == "llama" else set()
    assert tables_at(folder) == names
    found = judged_at(folder)
    for concept in CONCEPTS:
        assert chosen_for(found, concept) == first_candidates(found, concept)
    assert {row["method"] for row in found if row["role"] == "chosen"} == CHOSEN
    assert {row["concepts"] for row in rows_at(folder, "contrasts")} == {3}


def test_a_concept_without_validation_rows_takes_the_first_candidate_and_has_no_path(audit, with_validation):
    rows = [row for row in with_validation if row[1:] != ("sports", "validation")]
    folder = audit("llama", rows)
    found = judged_at(folder)
    assert chosen_for(found, "sports") == first_candidates(found, "sports")
    assert any(chosen_for(found, concept) != first_candidates(found, concept) for concept in CONCEPTS[:2])
    assert {row["selectivity"] for row in rows_at(folder, "validation") if row["concept"] == "sports"} == {None}
    reached = {concept: [] for concept in CONCEPTS}
    for row in rows_at(folder, "frontier"):
        reached[row["concept"]].append(row["reached"])
    assert not any(reached["sports"])
    assert any(reached["health"] + reached["finance"])


def test_the_published_method_has_no_tuned_one_beside_it(audit, with_validation):
    """Nothing is chosen, so no validation row is looked at."""
    folder = audit("bert", with_validation, "preset=official", "interventions.top=[0.1, 0.3]")
    assert tables_at(folder) == {"results.parquet", "rows/site=resid_post.2.parquet"}
    assert {row["role"] for row in rows_at(folder, "results")} == {"sweep"}
    assert {row["seed"] for row in rows_at(folder, "results")} == {0}
    assert read_manifest(folder)["facts"]["validation_rows"] == 0
    assert not (folder / "documents").exists(), "no folder for what there is nothing of"
