"""Edits of several sites together do what plain hooks at these sites do, and joint.parquet says what that gains over the best site."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from neuronlens.artifact import read_table
from neuronlens.checkpoint import load_checkpoint
from neuronlens.dataset import read_dataset, read_documents
from neuronlens.encoding import Encoder, encode_questions, resolve_labels
from neuronlens.evaluation.joint import JointMethod, JointScores, joint_methods, joint_table
from neuronlens.evaluation.measure import measure
from neuronlens.evaluation.methods import Method, read_methods
from neuronlens.evaluation.scoring import score_rows
from neuronlens.evaluation.summary import sign_flip_p
from neuronlens.evaluation.text import PERPLEXITY, text_losses
from neuronlens.evaluation.uncertainty import change_of_rate, difference
from neuronlens.interventions.edit import Joint, edit
from neuronlens.params import load_config
from neuronlens.parts import PartMaker
from neuronlens.questions import read_questions
from neuronlens.stages import run_stage
from tests import reference
from tests.conftest import hooks, labelled
from tests.evaluation.by_hand import losing, method, scores
from tests.evaluation.test_deciding import logits_like_those_of_whole_passes, ragged
from tests.evaluation.test_evaluate import rows_of, table_of, tables_at
from tests.evaluation.test_suffix import SITES, erasing, gated, half
from tests.models import FAMILIES, LANGUAGE_MODELS, LAYERS

CONCEPTS = ("finance", "health", "sports")
PROMPT = "{text} Topic:"
RESIDUAL = [site for site in SITES if site.component == "resid_post"]


def joints(config, positions="all"):
    """Of two sites and of all, before the last block and in it."""
    items = {site: half(config, site, positions=positions) for site in SITES}
    pairs = [(SITES[0], SITES[1]), (SITES[1], SITES[2]), (SITES[0], SITES[-2]), (SITES[-1], SITES[2])]
    pairs += [(SITES[-2], SITES[-1]), tuple(SITES)]
    return [
        *(Joint.of(items[site] for site in sites) for sites in pairs),
        Joint.of([gated(items[SITES[0]]), erasing(config, RESIDUAL[-1], positions)]),
    ]


def halved(hidden):
    """What `half` does, on all tokens of a row without padding."""
    new = hidden.clone()
    every_second = new[..., ::2]
    every_second[(every_second >= 0) & (every_second <= 5)] = 0
    return new


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_joint_edit_is_that_of_plain_hooks(checkpoints, family):
    """Row by row without padding, hooks registered from the deepest to the shallowest site: their order is that of the layers."""
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint, rows=3)
    for sites in ((SITES[1], RESIDUAL[-1]), tuple(SITES)):
        item = Joint.of(half(model.config, site) for site in reversed(sites))
        for row, (ids, mask) in enumerate(zip(batch.input_ids, batch.attention_mask, strict=True)):
            given = ids[mask.bool()].tolist()
            with ExitStack() as stack:
                for site in reversed(sites):
                    stack.enter_context(reference.hooked(model, family, site.layer, site.component, halved))
                plain = reference.logits_of(model, given)[-1]
            with edit(model, item):
                ours = model(input_ids=batch.input_ids[row : row + 1, : len(given)]).logits[0]
            ours = ours if ours.dim() == 1 else ours[-1]
            assert torch.equal(ours, plain)


@torch.inference_mode()
@pytest.mark.parametrize("positions", ["all", "pooled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_short_cuts_have_the_logits_and_the_dose_of_a_whole_pass(checkpoints, family, positions):
    """Also beside edits of single sites, whose logits they leave as they are."""
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    together, alone = joints(model.config, positions), [half(model.config, site, positions=positions) for site in SITES]
    found = logits_like_those_of_whole_passes(model, [*together, *alone], batch)
    for i, one in enumerate(found):
        assert not any(torch.allclose(one, other, atol=1e-5) for other in found[:i])


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_together_with_nothing_an_edit_is_what_it_is_alone(checkpoints, family):
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    alone = [half(model.config, site) for site in SITES]
    found = logits_like_those_of_whole_passes(model, [*alone, *(Joint((item,)) for item in alone)], batch)
    for own, joint in zip(found[1 : len(alone) + 1], found[len(alone) + 1 :], strict=True):
        torch.testing.assert_close(joint, own, rtol=0, atol=2e-6)


@torch.inference_mode()
def test_the_dose_is_that_of_all_sites(checkpoints):
    checkpoint = checkpoints("gpt2")
    model, batch = checkpoint.model, ragged(checkpoint)
    items = [half(model.config, site) for site in (SITES[0], SITES[3])]
    with (
        edit(model, [Joint.of(items)]) as (together,),
        edit(model, [replace(item, operator="scale:1") for item in items]),
    ):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    with edit(model, items) as apart:
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    assert together.changed.tolist() == sum(dose.changed for dose in apart).tolist()
    assert together.looked_at.tolist() == sum(dose.looked_at for dose in apart).tolist()
    assert together.calls == 2
    assert hooks(model) == 0


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_ordinary_text_has_the_losses_of_a_whole_pass(checkpoints, family):
    checkpoint = checkpoints(family)
    model, batch = checkpoint.model, ragged(checkpoint)
    together = [*joints(model.config), Joint((half(model.config, RESIDUAL[-1]),))]
    found = dict(text_losses(model, together, batch))
    assert sorted(found) == list(range(len(together) + 1))
    for index, item in enumerate(together, start=1):
        with edit(model, item):
            ((_, whole),) = text_losses(model, [], batch)
        torch.testing.assert_close(found[index], whole, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found[index], found[0], rtol=1e-4)


def test_fidelity_is_checked_where_edits_are_together(checkpoints, dataset, monkeypatch):
    checkpoint = checkpoints("llama")
    together = joints(checkpoint.config)
    exact = score_rows(checkpoint, dataset, together)
    assert exact.no_op_difference == 0
    assert exact.suffix_difference <= min(2e-6, exact.suffix_tolerance)
    monkeypatch.setattr(Joint, "idle", lambda item: item)
    assert score_rows(checkpoint, dataset, together).no_op_difference > 0


def at(site, concept, **how):
    """A tuned method of a site."""
    own = method(concept, role="tuned", **how)
    return Method(replace(own.ranges, site=site), own.operator)


def joint_of(candidates, measured, counts):
    """What is edited together, where every candidate has been chosen at its site."""
    chosen = {(str(own.ranges.site), own.ranges.concept, "tuned"): i for i, own in enumerate(candidates)}
    rows = [dict(zip(("selectivity", "confidence_selectivity"), row, strict=True)) for row in measured]
    return joint_methods(candidates, chosen, rows, counts)


def test_the_best_sites_are_those_of_the_validation_rows():
    candidates = [at(site, concept) for site in RESIDUAL for concept in ("health", "sports")]
    measured = [(0.5, 0.1), (0.1, 0.1), (0.5, 0.3), (0.9, 0.8), (0.2, 0.2), (0.9, 0.9)]
    found = joint_of(candidates, measured, (2, 3))
    first, middle, last = RESIDUAL
    sites = [(part.concept, [own.ranges.site for own in part.methods]) for part in found]
    assert sites == [
        ("health", [middle, first]),
        ("health", [middle, first, last]),
        ("sports", [last, middle]),
        ("sports", [last, middle, first]),
    ]
    told = found[2].identity
    assert told["sites"] == [str(middle), str(last)], "in the order of the layers"
    assert (told["best_site"], told["count"], told["concept"]) == (str(last), 2, "sports")
    assert [part.site for part in found[2].edit("auto").items] == [middle, last]


def test_more_sites_than_there_are_means_all_of_them_once():
    candidates = [at(site, "sports") for site in RESIDUAL]
    found = joint_of(candidates, [(0.1, 0.1)] * LAYERS, (2, LAYERS + 1, LAYERS, 99))
    assert [len(part.methods) for part in found] == [2, LAYERS]
    assert joint_of(candidates, [(0.1, 0.1)] * LAYERS, ()) == []
    assert joint_of(candidates[:1], [(0.1, 0.1)], (2,)) == [], "a site alone has nothing beside it"


def test_without_validation_rows_no_site_is_the_best():
    candidates = [at(site, "sports") for site in RESIDUAL]
    assert joint_of(candidates, [], (2,)) == []
    assert joint_of(candidates, [(None, None)] * LAYERS, (2,)) == []


TRUTH = np.repeat([0, 1, 2], 20)


def table_by_hand(alone, together, concepts=CONCEPTS, seed=0):
    """joint.parquet of one joint edit a concept; [C] scores of the best site's edits, and of the joint ones."""
    methods = [JointMethod(name, (at(RESIDUAL[2], name), at(RESIDUAL[0], name))) for name in concepts]
    nothing = [dict.fromkeys(PERPLEXITY) for _ in concepts]
    found = JointScores(methods, together, nothing, nothing)
    return joint_table(found, alone, range(1, len(concepts) + 1), seed).to_pylist()


def test_the_gain_is_the_difference_of_selectivities():
    alone = losing(TRUTH, {0: 5}, {1: 8, 0: 2}, {2: 12})
    together = losing(TRUTH, {0: 15}, {1: 8, 0: 2}, {2: 14, 1: 10})
    *rows, mean = table_by_hand(alone, together)
    for place, (row, name) in enumerate(zip(rows, CONCEPTS, strict=True), start=1):
        one, both = (measure(found, name, [place])[0] for found in (alone, together))
        assert {key: row[key] for key in both if not key.endswith("_adjusted")} == {
            key: value for key, value in both.items() if not key.endswith("_adjusted")
        }
        assert row["gain"] == pytest.approx(both["selectivity"] - one["selectivity"])
        assert row["confidence_gain"] == pytest.approx(both["confidence_selectivity"] - one["confidence_selectivity"])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert [row["gain"] for row in rows] == pytest.approx([10 / 20, 0, 2 / 20 - 10 / 40])
    expected = difference(change_of_rate([10], [0], 20), change_of_rate([0], [0], 40))
    assert [rows[0][f"gain{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [float(part[0]) for part in expected]
    )
    assert rows[0]["gain_p"] == pytest.approx(2 / 2**10), "ten rows differ, all in one direction"
    assert rows[1]["gain_p"] == 1
    assert [row["gain_p_adjusted"] for row in rows] == pytest.approx([3 * 2 / 2**10, 1, rows[2]["gain_p"] * 3 / 2])
    assert (mean["concept"], mean["count"], mean["concepts"], mean["sites"]) == (None, 2, 3, None)
    for name in ("gain", "confidence_gain", "selectivity", "target_accuracy_drop", "complement_confidence_drop"):
        assert mean[name] == pytest.approx(np.mean([row[name] for row in rows]))
        assert mean[f"{name}_low"] < mean[name] < mean[f"{name}_high"]
    assert mean["gain_p_adjusted"] == mean["gain_p"], "one number of sites, nothing to correct for"


def test_an_edit_that_adds_nothing_gains_nothing():
    alone = losing(TRUTH, {0: 5}, {1: 8}, {2: 12})
    for row in table_by_hand(alone, alone):
        assert (row["gain"], row["confidence_gain"], row["gain_p"]) == (0, 0, 1)
        assert row["gain_low"] < 0 < row["gain_high"]


def test_the_test_swaps_the_two_edits_row_by_row():
    drawn = np.random.default_rng(3)
    alone, together = (scores(TRUTH, drawn.random((4, 60)) < 0.7) for _ in range(2))
    together = replace(together, predicted=np.concatenate([alone.predicted[:1], together.predicted[1:]]))
    row = table_by_hand(alone, together)[0]
    weights = np.where(TRUTH == 0, 1 / 20, -1 / 40)
    shift = (alone.correct[1].astype(float) - together.correct[1]) * weights
    assert shift.sum() == pytest.approx(row["gain"])
    # the patterns are drawn, so another draw gives nearly the same
    assert row["gain_p"] == pytest.approx(float(sign_flip_p(shift[None], 1)[0]), abs=0.03)


def test_two_concepts_can_decide():
    truth = np.repeat([0, 1], 60)
    alone, together = losing(truth, {0: 5}, {1: 5}), losing(truth, {0: 55}, {1: 50})
    mean = table_by_hand(alone, together, CONCEPTS[:2])[-1]
    assert mean["gain"] == pytest.approx((50 + 45) / 120)
    assert mean["gain_low"] > 0.6
    assert mean["gain_p_adjusted"] < 0.01


def test_a_concept_without_rows_has_no_gain_and_is_in_no_mean():
    truth = np.repeat([0, 1], 20)
    alone, together = losing(truth, {0: 5}, {1: 5}, {}), losing(truth, {0: 9}, {1: 9}, {})
    *rows, mean = table_by_hand(alone, together)
    assert [row["gain"] for row in rows] == [pytest.approx(0.2), pytest.approx(0.2), None]
    assert mean["concepts"] == 2
    assert mean["gain"] == pytest.approx(0.2)


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
    compared = 0
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
        compared += abs(row["target_confidence_drop"]) > 1e-4
    assert compared > 0, "nothing was edited"


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
