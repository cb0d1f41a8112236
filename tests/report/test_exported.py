"""Lenses out of an audit do what the audit has measured."""

from __future__ import annotations

import shutil

import pytest
import torch

from neuronlens.artifact import content_hash, read_table
from neuronlens.checkpoint import load_checkpoint
from neuronlens.config import Config
from neuronlens.errors import ArtifactError, UserError
from neuronlens.evaluation.methods import read_methods
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Joint, parts_of
from neuronlens.interventions.lens import Lens
from neuronlens.report.exported import export_lens
from neuronlens.report.finished import audit_of
from tests.interventions.edits import batch_of

CONCEPT = "health"


@pytest.fixture(scope="module")
def methods(tuned_audit):
    """(site, setting) -> the edit that the audit has measured for the concept."""
    config = Config.model_validate(audit_of(tuned_audit)["params"])
    known = [each for each in read_methods(tuned_audit / "fit", config) if each.ranges.concept == CONCEPT]
    return {(str(each.ranges.site), each.name): each.edit(config.extract.pooling) for each in known}


def rows(audit, table):
    found = read_table(audit / "evaluate" / f"{table}.parquet").to_pylist()
    return [row for row in found if row["concept"] == CONCEPT]


def logits(checkpoint, item):
    with torch.inference_mode(), edit(checkpoint.model, item):
        return checkpoint.model(**batch_of(checkpoint)).logits


def test_every_method_of_the_results_and_every_choice_is_the_edit_that_was_measured(tuned_audit, methods, tmp_path):
    results, chosen = rows(tuned_audit, "results"), rows(tuned_audit, "chosen")
    assert {row["method"] for row in chosen} >= {"tuned", "paper", "whole", "tuned/random_ranges"}
    assert any(row["range"] == "leace" for row in results)
    for row in [*results, *chosen]:
        lens = export_lens(tuned_audit, CONCEPT, row["method"], row["site"])
        assert [str(site) for site in lens.sites] == [row["site"]]
        assert lens.params[0]["setting"] == row["setting"]
        assert {name: row[name] for name in ("saliency", "top", "range", "tau", "gate")}.items() <= lens.params[
            0
        ].items()
        expected = methods[row["site"], row["setting"]]
        assert lens.item.extent == expected.extent
        lens.save(tmp_path / "lens")
        assert Lens.load(tmp_path / "lens").params == lens.params


def test_an_edit_has_the_effect_of_the_method(tuned_audit, methods, tmp_path):
    checkpoint = load_checkpoint(tuned_audit.parent / "model")
    for row in rows(tuned_audit, "chosen"):
        export_lens(tuned_audit, CONCEPT, row["method"], row["site"]).save(tmp_path / "lens")
        read = Lens.load(tmp_path / "lens")
        assert torch.equal(logits(checkpoint, read), logits(checkpoint, methods[row["site"], row["setting"]]))


def test_joint_edits_are_those_of_their_sites(tuned_audit, methods):
    found = {f"joint/{row['count']}": row for row in rows(tuned_audit, "joint")}
    assert [*found] == ["joint/2", "joint/3"]
    for method, row in found.items():
        lens = export_lens(tuned_audit, CONCEPT, method)
        assert [str(site) for site in lens.sites] == row["sites"]
        expected = Joint.of(methods[place] for place in zip(row["sites"], row["settings"], strict=True))
        assert [part.extent for part in parts_of(lens.item)] == [part.extent for part in expected.items]
        assert [params["setting"] for params in lens.params] == row["settings"]


def test_a_lens_says_what_it_was_made_from(tuned_audit):
    lens, again = (export_lens(tuned_audit, CONCEPT, "tuned", "resid_post.1") for _ in range(2))
    checkpoint = load_checkpoint(tuned_audit.parent / "model")
    assert (lens.concept, lens.method) == (CONCEPT, "tuned")
    assert (lens.checkpoint, lens.fingerprint) == (checkpoint.name, checkpoint.fingerprint)
    assert (lens.model_type, lens.widths) == ("gpt2", (16,))
    stages = ("prepare", "extract", "fit", "evaluate")
    assert lens.audit == {stage: content_hash(tuned_audit / stage) for stage in stages} == again.audit


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"concept": "helth"}, "unknown concept 'helth'. Did you mean 'health'"),
        ({"method": "tunde"}, "no method 'tunde' for 'health'. Did you mean 'tuned'"),
        ({"site": "resid_post.7"}, "no method 'tuned' at resid_post.7"),
        ({"site": "attic.7"}, "unknown component 'attic'"),
        ({}, r"tuned was measured at 3 sites. Name one with --site: resid_post.0, .*, or --method joint/2"),
        ({"method": "joint/2", "site": "resid_post.1"}, "a joint edit has its own sites"),
        ({"method": "joint"}, "no method 'joint' for 'health'. Did you mean 'joint/"),
        ({"method": "x"}, "Known: paper, whole, tuned, .*, joint/3, and the settings of results.parquet.$"),
    ],
)
def test_what_an_audit_has_not_measured_is_refused(tuned_audit, asked, match):
    with pytest.raises(UserError, match=match):
        export_lens(tuned_audit, **{"concept": CONCEPT} | asked)


def test_a_damaged_audit_is_refused(tuned_audit, tmp_path):
    copy = tmp_path / "audit"
    shutil.copytree(tuned_audit, copy)
    file = copy / "fit" / "ranges.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtifactError, match=r"fit: its files are not what they were"):
        export_lens(copy, CONCEPT, "tuned", "resid_post.1")
