"""An audit of several sites also edits the best together: what it measures is what plain passes give, and changes nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from neuronlens.artifact import read_manifest, read_table
from neuronlens.checkpoint import load_checkpoint
from neuronlens.dataset import read_dataset
from neuronlens.encoding import Encoder, encode_questions, resolve_labels
from neuronlens.evaluation.methods import read_methods
from neuronlens.evaluation.planned import Evaluation
from neuronlens.evaluation.questions import score_questions
from neuronlens.evaluation.scoring import score_rows
from neuronlens.evaluation.sweep import evaluate, evaluate_methods
from neuronlens.interventions.edit import edit
from neuronlens.params import load_config
from neuronlens.parts import PartMaker
from neuronlens.questions import read_questions
from neuronlens.stages import run_stage
from neuronlens.text_files import read_documents
from tests import reference
from tests.conftest import labelled
from tests.evaluation.edits import RESIDUAL
from tests.evaluation.tables import rows_of, table_of, tables_at
from tests.models import LAYERS

CONCEPTS = ("finance", "health", "sports")
PROMPT = "{text} Topic:"


@pytest.fixture(scope="module")
def audit(checkpoints, lettered, auxiliary, tmp_path_factory):
    """`audit(family)`: folder and configuration of an audit of all residual sites, two and all of them together, up to `evaluate`."""
    made = {}

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp("joint")
            pq.write_table(
                table_of(rows_of(labelled(CONCEPTS, fit=8, validation=3, test=4))), folder / "topics.parquet"
            )
            checkpoint = (checkpoints if family == "bert" else lettered)(family)
            given = [f"checkpoint.path={checkpoint.path}", f"dataset.path={folder / 'topics.parquet'}"]
            given += ["fit.rows=all", "fit.saliency=mean_abs", "evaluate.bootstrap=100", "extract.sites=resid_post.all"]
            given += ["interventions.top=0.3", "interventions.tau=2", "interventions.controls=[random_ranges]"]
            given += ["interventions.tuned.top=0.5", "interventions.joint=[2, 9]"]
            if family != "bert":
                given += [f"dataset.prompt='{PROMPT}'", f"evaluate.auxiliary={auxiliary}", *questions(folder)]
            config = load_config(None, given)
            for stage in ("prepare", "extract", "fit", "evaluate"):
                run_stage(stage, config, folder / "audit")
            made[family] = folder / "audit", config
        return made[family]

    return make


def questions(folder):
    """A file of two questions, as an override."""
    asked = [{"question": "the bank of the court", "choices": ["law", "ball", "fever"], "answer": i} for i in (0, 2)]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return [f"evaluate.questions={folder / 'asked.jsonl'}"]


def read(folder, name):
    return read_table(folder / "evaluate" / f"{name}.parquet").to_pylist()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_an_audit_of_several_sites_edits_the_best_together(audit, family):
    folder, _ = audit(family)
    rows = read(folder, "joint")
    assert [(row["concept"], row["count"]) for row in rows] == [
        *((name, count) for name in CONCEPTS for count in (2, LAYERS)),
        *((None, count) for count in (2, LAYERS)),
    ]
    chosen = {(row["concept"], row["site"]): row for row in read(folder, "chosen") if row["method"] == "tuned"}
    tried = {(row["concept"], row["site"], row["method"]): row for row in read(folder, "validation")}
    for row in rows:
        assert (row["perplexity"] is None) == (row["questions_accuracy"] is None) == (family == "bert") or (
            row["concept"] is None
        )
        if row["concept"] is None:
            continue
        worth = {}
        for site in RESIDUAL:
            own = tried[row["concept"], str(site), chosen[row["concept"], str(site)]["setting"]]
            worth[str(site)] = own["selectivity"] + own["confidence_selectivity"]
        left_out = [value for site, value in worth.items() if site not in row["sites"]]
        assert all(worth[site] >= value - 2e-6 for site in row["sites"] for value in left_out)
        assert worth[row["best_site"]] == pytest.approx(max(worth.values()), abs=2e-6)
        assert row["sites"] == sorted(row["sites"])
        assert row["settings"] == [chosen[row["concept"], site]["setting"] for site in row["sites"]]
        best = chosen[row["concept"], row["best_site"]]
        for gain, measured in (("gain", "selectivity"), ("confidence_gain", "confidence_selectivity")):
            assert row[gain] == pytest.approx(row[measured] - best[measured], abs=1e-6)
        assert row["base_target_confidence"] == best["base_target_confidence"]


@torch.inference_mode()
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_what_is_measured_is_what_plain_passes_give(audit, family):
    """One row and one edit at a time, whole passes with the hooks of every site."""
    folder, config = audit(family)
    checkpoint, dataset = load_checkpoint(config.checkpoint.path), read_dataset(folder / "prepare")
    labels = resolve_labels(checkpoint, dataset.concepts, config.dataset, "constrained")
    template = "{text}" if family == "bert" else PROMPT
    tested = [i for i, split in enumerate(dataset.split) if split == "test"]
    texts = [template.replace("{text}", dataset.text[i]) for i in tested]
    encoded = Encoder(checkpoint.tokenizer, 128).encode(texts)
    truth = [labels.concepts.index(dataset.concept[i]) for i in tested]
    known = {
        (own.ranges.concept, str(own.ranges.site), own.name): own
        for own in read_methods(folder / "fit", config)
        if own.role == "tuned"
    }
    if family == "gpt2":
        asked = encode_questions(checkpoint, read_questions(config.evaluate.questions))
        documents = Encoder(checkpoint.tokenizer, 64).encode(read_documents(config.evaluate.auxiliary, 200))
    compared, chosen = 0, read(folder, "chosen")[0]
    for row in read(folder, "joint"):
        if row["concept"] is None:
            continue
        edits = [
            known[row["concept"], site, name].edit("auto")
            for site, name in zip(row["sites"], row["settings"], strict=True)
        ]
        right, sure = [], []
        with edit(checkpoint.model, edits):
            for ids, own in zip(encoded, truth, strict=True):
                logits = reference.logits_of(checkpoint.model, ids)[-1]
                answer = reference.answer(logits, dict(enumerate(labels.ids)), "constrained", own)
                right.append(answer[0])
                sure.append(answer[1])
        target = np.array(truth) == labels.concepts.index(row["concept"])
        for group, members in (("target", target), ("complement", ~target)):
            assert row[f"{group}_accuracy"] == pytest.approx(np.mean(np.array(right)[members]))
            assert row[f"{group}_confidence"] == pytest.approx(np.mean(np.array(sure)[members]), rel=1e-4)
            assert row[f"n_{group}"] == members.sum()
        if family == "gpt2":
            with edit(checkpoint.model, edits):
                told = [reference.logits_of(checkpoint.model, ids) for ids in asked.encoded]
                cost = [reference.nll(reference.logits_of(checkpoint.model, ids), ids) for ids in documents]
            letters = [
                int(one[-1, list(asked.letters)][:count].argmax())
                for one, count in zip(told, asked.choices, strict=True)
            ]
            assert row["questions_accuracy"] == np.mean(np.array(letters) == asked.answers)
            tokens = sum(len(ids) - 1 for ids in documents)
            assert row["perplexity"] == pytest.approx(np.exp(sum(cost) / tokens), rel=1e-5)
            assert row["base_perplexity"] == chosen["base_perplexity"]
        compared += abs(row["target_confidence_drop"]) > 1e-4
    assert compared > 0, "nothing was edited"


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_measuring_the_methods_by_themselves_gives_the_table_of_the_stage(audit, family):
    folder, config = audit(family)
    results = read_table(folder / "evaluate" / "results.parquet")
    known = {
        (str(own.ranges.site), own.ranges.concept, own.role, own.name): own
        for own in read_methods(folder / "fit", config)
    }
    keys = zip(*(results[name].to_pylist() for name in ("site", "concept", "role", "method")), strict=True)
    methods = [known[key] for key in keys]
    checkpoint, dataset = load_checkpoint(config.checkpoint.path), read_dataset(folder / "prepare")
    found, scores = evaluate_methods(checkpoint, dataset, methods, config)
    assert found.equals(results)
    assert len(scores.correct) == len(methods) + 1
    own = scores.truth == scores.concepts.index(CONCEPTS[0])
    assert scores.confidence[0, own].mean(dtype=float) == pytest.approx(
        next(row["base_target_confidence"] for row in found.to_pylist() if row["concept"] == CONCEPTS[0])
    )
    rows = read_table(folder / "evaluate" / "rows" / f"site={RESIDUAL[0]}.parquet")
    first = results["site"].to_pylist().index(str(RESIDUAL[0]))
    for name in ("correct", "confidence", "changed", "looked_at"):
        assert rows[name][: len(scores.rows)].to_pylist() == getattr(scores, name)[first + 1].tolist()


def test_each_method_has_the_answers_to_questions_under_it(audit, tmp_path):
    folder, config = audit("gpt2")
    words = ("law", "ball", "fever", "cell", "bank")
    asked = [
        {"question": f"the {words[i % 5]} of the {words[i % 3]}", "choices": words[: 2 + i % 3], "answer": i % 2}
        for i in range(20)
    ]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    told = config.model_copy(
        update={"evaluate": config.evaluate.model_copy(update={"questions": str(tmp_path / "asked.jsonl")})}
    )
    checkpoint, dataset = load_checkpoint(config.checkpoint.path), read_dataset(folder / "prepare")
    methods = read_methods(folder / "fit", config)[:40]
    found, _ = evaluate_methods(checkpoint, dataset, methods, told)
    questions = encode_questions(checkpoint, read_questions(told.evaluate.questions))
    edits = [method.edit("auto") for method in methods]
    right = score_questions(checkpoint, questions, edits, batch_tokens=1000)[1:].mean(axis=1)
    assert found["questions_accuracy"].to_pylist() == right.tolist()
    assert len({*right.tolist()}) > 1


def test_rows_are_scored_as_the_parameters_say(audit, tmp_path):
    folder, config = audit("gpt2")
    asked = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"scoring": "labels"})})
    evaluate(asked, {stage: folder / stage for stage in ("prepare", "fit")}, tmp_path)
    checkpoint, dataset = load_checkpoint(config.checkpoint.path), read_dataset(folder / "prepare")
    scores = score_rows(checkpoint, dataset, [], scoring="labels", text=config.dataset)
    rows = read_table(tmp_path / "results.parquet").to_pylist()
    assert rows
    for row in rows:
        own = scores.truth == scores.concepts.index(row["concept"])
        assert row["base_target_confidence"] == pytest.approx(scores.confidence[0, own].mean(dtype=float), rel=1e-5)
    assert rows[0]["base_target_confidence"] != read(folder, "results")[0]["base_target_confidence"]


def test_short_cuts_of_joint_edits_are_checked_as_well_and_no_part_is_left(audit, tmp_path, monkeypatch):
    folder, config = audit("bert")
    joint = Evaluation.joint

    def worse(self, parts):
        found = joint(self, parts)
        return replace(found, scores=replace(found.scores, no_op_difference=0.25, suffix_difference=0.5))

    monkeypatch.setattr(Evaluation, "joint", worse)
    facts = evaluate(config, {stage: folder / stage for stage in ("prepare", "fit")}, tmp_path)
    assert (facts["no_op_difference"], facts["suffix_difference"]) == (0.25, 0.5)
    assert tables_at(tmp_path) == tables_at(folder / "evaluate")
    assert not (tmp_path / ".parts").exists()


def test_paths_at_equal_drops_know_what_ordinary_text_costs(audit):
    folder, _ = audit("gpt2")
    costs = [value for row in read(folder, "frontier") for key, value in row.items() if "perplexity" in key]
    assert any(value is not None for value in costs)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_manifest_says_what_was_evaluated(audit, family):
    folder, _ = audit(family)
    facts = read_manifest(folder / "evaluate")["facts"]
    results = read(folder, "results")
    settings = {(row["site"], row["concept"], row["role"], row["method"]) for row in results}
    assert 0 < facts["edits"] <= facts["methods"] == len(settings) == len(results)
    assert facts["no_op_difference"] == 0
    assert 0 <= facts["suffix_difference"] <= facts["suffix_tolerance"] < 1e-3
    assert {name: value for name, value in facts.items() if "difference" not in name} == {
        "methods": len(results),
        "edits": facts["edits"],
        "rows": 12,
        "validation_rows": 9,
        "suffix_tolerance": facts["suffix_tolerance"],
        "bootstrap": 100,
        "perplexity": family == "gpt2",
        "questions": {"used": 2, "left_out": 0} if family == "gpt2" else None,
        "autoencoders": [],
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
    }


def test_parts_are_named_after_what_their_bytes_may_depend_on(audit):
    """Whoever plans the same gets the same names; a part that was made in other batches or another type of number is none of them."""
    folder, config = audit("bert")

    def names(**how):
        asked = config.model_copy(
            update={name: getattr(config, name).model_copy(update=part) for name, part in how.items()}
        )
        planned = Evaluation(asked, {stage: folder / stage for stage in ("prepare", "fit")})
        planned.judge(None)
        return {kind: planned.names(kind) for kind in ("validation", "test", "joint", "text", "questions")}

    plain = names()
    assert plain == names()
    assert all(plain[kind] for kind in ("validation", "test"))
    assert plain["text"] == plain["questions"] == []
    for kind, own in plain.items():
        assert [name[8:] for name in own] == [f"-{kind}-{i:05d}" for i in range(len(own))]
    for other in (names(extract={"batch_tokens": 40}), names(checkpoint={"dtype": "bfloat16"})):
        assert not {*plain["test"]} & {*other["test"]}
        assert not {*plain["validation"]} & {*other["validation"]}


def test_documents_add_up_to_the_results(audit):
    folder, config = audit("gpt2")
    results = {(row["site"], row["concept"], row["role"], row["method"]): row for row in read(folder, "results")}
    checkpoint = load_checkpoint(config.checkpoint.path)
    texts = Encoder(checkpoint.tokenizer, 64).encode(read_documents(config.evaluate.auxiliary, 200))
    predicted = [len(ids) - 1 for ids in texts]
    seen = set()
    for site in RESIDUAL:
        table = read_table(folder / "evaluate" / "documents" / f"site={site}.parquet")
        assert [(field.name, field.type) for field in table.schema] == [
            *((name, pa.string()) for name in ("concept", "role", "method")),
            *((name, pa.int32()) for name in ("document", "predicted")),
            *((name, pa.float64()) for name in ("base_loss", "loss")),
        ]
        rows = table.to_pylist()
        for start in range(0, len(rows), len(texts)):
            own = rows[start : start + len(texts)]
            assert [row["document"] for row in own] == [*range(len(texts))]
            assert [row["predicted"] for row in own] == predicted
            (key,) = {(str(site), row["concept"], row["role"], row["method"]) for row in own}
            seen.add(key)
            for perplexity, name in (("perplexity", "loss"), ("base_perplexity", "base_loss")):
                exact = np.exp(sum(row[name] for row in own) / sum(predicted))
                assert results[key][perplexity] == pytest.approx(exact, rel=1e-12)
    assert seen == {*results}


def evaluated(folder, config, out):
    """The stage `evaluate` of an audit once more, in another folder."""
    for stage in ("prepare", "extract", "fit"):
        (out / stage).symlink_to(folder / stage)
    run_stage("evaluate", config, out)
    return out / "evaluate"


def test_asking_for_it_changes_no_byte_of_the_other_tables(audit, tmp_path):
    folder, config = audit("gpt2")
    asked = config.interventions.model_copy(update={"joint": ()})
    without = evaluated(folder, config.model_copy(update={"interventions": asked}), tmp_path)
    assert tables_at(folder / "evaluate") == tables_at(without) | {"joint.parquet"}
    for name in tables_at(without):
        assert (without / name).read_bytes() == (folder / "evaluate" / name).read_bytes(), name


def test_an_interruption_between_parts_changes_no_byte(audit, tmp_path, monkeypatch):
    folder, config = audit("gpt2")
    whole, made = PartMaker.__call__, []

    def make(maker, name):
        if "-joint-" in name and first:
            raise KeyboardInterrupt
        whole(maker, name)
        made.append(name)

    monkeypatch.setattr(PartMaker, "__call__", make)
    first = True
    with pytest.raises(KeyboardInterrupt):
        evaluated(folder, config, tmp_path)
    before, first = {*made}, False
    made.clear()
    run_stage("evaluate", config, tmp_path)
    assert any("-joint-" in name for name in made)
    assert before, "something was finished"
    assert not before & {*made}, "what is finished is kept"
    for name in tables_at(folder / "evaluate"):
        assert (tmp_path / "evaluate" / name).read_bytes() == (folder / "evaluate" / name).read_bytes(), name
