"""The sweep says what a plain implementation of the method says, one row and one intervention at a time."""

from __future__ import annotations

import shutil
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuronlens.activations.extract import collect_activations
from neuronlens.activations.ordinary import Ordinary
from neuronlens.artifact import read_table
from neuronlens.config import Config, load_config
from neuronlens.evaluation import sweep
from neuronlens.evaluation.deciding import Unedited
from neuronlens.evaluation.measure import MEASURED
from neuronlens.evaluation.methods import CONTROLS, Method
from neuronlens.evaluation.questions import COLUMNS
from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.sweep import IDENTITY, PERPLEXITY, evaluate_methods
from neuronlens.evaluation.uncertainty import change_of_rate, wilson
from neuronlens.ranges.leace import fit_erasures
from neuronlens.ranges.selection import Ranges, fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.sites import Site
from neuronlens.stages import run_stage
from tests import reference
from tests.conftest import labelled, sentences
from tests.models import LAYERS

CONCEPTS = ("finance", "health", "sports")
PROMPT = "{text} Topic:"
# saliency, top, kind, tau, threshold, gate, operator
ASKED = [
    (concept, *method)
    for concept, method in product(
        CONCEPTS,
        [
            ("d_prime", 0.3, "gaussian", 1.5, None, "none", "zero"),
            ("d_prime", 0.3, "gaussian", 2.5, None, "none", "dampen"),
            ("mean_abs", 0.3, "gaussian", 1.5, None, "none", "complement_mean"),
            ("mean_abs", 0.1, "full", None, None, "none", "zero"),
            ("d_prime", 0.5, "gaussian", 2.0, None, "agreement", "steer:-1"),
            ("mean_abs", 0.4, "discriminative", None, 1.0, "none", "dampen"),
            ("d_prime", 0.5, "discriminative", None, 1.2, "agreement", "steer:-2"),
            ("none", 1.0, "leace", None, None, "none", "erase"),
        ],
    )
]


def settings(**changes):
    values = {
        "dataset": {"prompt": PROMPT},
        "fit": {"rows": "all"},
        "evaluate": {"bootstrap": 100},
        **changes,
    }
    return Config.model_validate(values)


@pytest.fixture(scope="module")
def topics():
    return labelled(CONCEPTS, fit=6, validation=0, test=2)


@pytest.fixture(scope="module")
def auxiliary(tmp_path_factory):
    file = tmp_path_factory.mktemp("auxiliary") / "ordinary.txt"
    file.write_text("\n".join(sentences(2, seed=9)), encoding="utf-8")
    return file


def assert_equal_ranges(ranges, plain, where):
    """Neurons, intervals and gate; what a neuron does not need of the intervals' columns holds nothing."""
    assert ranges.neurons.tolist() == plain["neurons"], where
    for lower, upper, intervals in zip(ranges.lower, ranges.upper, plain["bounds"], strict=True):
        held = lower <= upper
        ours = np.stack([lower[held], upper[held]], axis=1)
        np.testing.assert_allclose(ours, np.reshape(intervals, (-1, 2)), rtol=1e-5, atol=1e-5, err_msg=where)
    assert (ranges.agreement is None) == (plain["gate"] is None), where
    if ranges.agreement is not None:
        assert ranges.agreement.threshold == pytest.approx(plain["gate"], abs=1e-5), where


@pytest.mark.parametrize(("positions", "scoring"), [("all", "constrained"), ("pooled", "free")])
@pytest.mark.parametrize("component", ["resid_post", "mlp_post"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gemma2"])
def test_results_equal_the_plain_reference(checkpoints, topics, auxiliary, family, component, positions, scoring):
    checkpoint = checkpoints(family)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    config = settings(
        interventions={"positions": positions},
        evaluate={"scoring": scoring, "auxiliary": str(auxiliary), "bootstrap": 100},
    )
    layers = (LAYERS // 2, LAYERS - 1)
    activations = collect_activations(
        checkpoint, topics, [f"{component}.middle", f"{component}.last"], text=config.dataset, batch_tokens=60
    )

    classifier = family == "bert"
    template = "{text}" if classifier else PROMPT

    def tokens(text):
        return tokenizer(text)["input_ids"]

    rows = [
        (tokens(template.replace("{text}", text)), concept, split)
        for text, concept, split in zip(topics.text, topics.concept, topics.split, strict=True)
    ]
    first = len(tokens("Topic:"))
    labels = model.config.label2id if classifier else {name: tokens(f"Topic: {name}")[first] for name in CONCEPTS}
    ids = {concept: labels[concept] for concept in CONCEPTS}
    documents = [] if classifier else [tokens(text) for text in auxiliary.read_text().splitlines()]
    ordinary = [tokens(text) for text in sentences(5, seed=11)]
    # behind a GELU many values are 0 but for rounding, on whose order quantile bins depend, and a regression on its size
    asked = [method for method in ASKED if component == "resid_post" or method[3] not in ("discriminative", "leace")]

    for layer in layers:
        site = Site(layer, component)
        running = np.concatenate([reference.everywhere(model, family, layer, component, ids) for ids in ordinary])
        tokens_of = Ordinary(np.ascontiguousarray(running.T), np.full(len(running), ""))
        statistics = fit_statistics(activations, site, rows="all", ordinary=tokens_of)
        erasures = {erasure.concept: erasure for erasure in fit_erasures(statistics)}
        methods = [
            Method(erasures[concept], positions=positions)
            if kind == "leace"
            else Method(
                fit_ranges(
                    statistics,
                    concept,
                    saliency=saliency,
                    top=top,
                    kind=kind,
                    tau=tau,
                    threshold=threshold,
                    gate=gate,
                ),
                operator,
                positions,
            )
            for concept, saliency, top, kind, tau, threshold, gate, operator in asked
        ]
        table, _ = evaluate_methods(checkpoint, topics, methods, config)
        expected = reference.audit(
            model, family, layer, component, rows, ids, documents, ordinary, asked, positions=positions, scoring=scoring
        )
        for what, method, found, plain in zip(asked, methods, table.to_pylist(), expected, strict=True):
            where = f"layer {layer}, {what}"
            # an erasure turns with the least-spread directions of the rows, where roundings of the activations weigh most
            close = 1e-5 if isinstance(method.ranges, Ranges) else 1e-4
            if isinstance(method.ranges, Ranges):
                assert_equal_ranges(method.ranges, plain, where)
            for group in ("target", "complement"):
                assert found[f"dose_{group}"] == plain[f"dose_{group}"], where
                for prefix in ("", "base_"):
                    assert found[f"{prefix}{group}_accuracy"] == plain[f"{prefix}{group}_accuracy"], where
                    name = f"{prefix}{group}_confidence"
                    assert found[name] == pytest.approx(plain[name], rel=close), where
            for name in ("perplexity", "base_perplexity"):
                assert (found[name] is None) == classifier
                if not classifier:
                    assert found[name] == pytest.approx(plain[name], rel=close), where
        results = table.to_pylist()
        moved = [row["target_confidence"] != row["base_target_confidence"] for row in results]
        assert 2 * sum(moved) > len(results), "the edits must make a difference"
        gated = [row for row in results if row["gate"] == "agreement"]
        assert any(0 < row[f"dose_{group}"] < 1 for row in gated for group in ("target", "complement"))
        intervals = [len(found) for plain in expected for found in plain.get("bounds", ())]
        assert (max(intervals) > 1) == (component == "resid_post"), "some neurons have several intervals"


def test_drops_and_selectivity_follow_from_the_measured_rates(checkpoints, dataset):
    checkpoint = checkpoints("llama")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    methods = [
        Method(fit_ranges(statistics, concept, top=0.3, kind="full"), "zero", "all") for concept in dataset.concepts
    ]
    table, scores = evaluate_methods(checkpoint, dataset, methods, settings(dataset={}))
    for index, found in enumerate(table.to_pylist(), start=1):
        target = scores.truth == scores.concepts.index(found["concept"])
        assert (found["n_target"], found["n_complement"]) == (3, 9)
        for group, members in (("target", target), ("complement", ~target)):
            assert found[f"{group}_accuracy"] == scores.correct[index, members].mean()
            low, high = wilson(int(scores.correct[index, members].sum()), int(members.sum()))
            assert (found[f"{group}_accuracy_low"], found[f"{group}_accuracy_high"]) == (low, high)
            for measure in ("accuracy", "confidence"):
                name = f"{group}_{measure}"
                assert found[f"{name}_drop"] == pytest.approx(found[f"base_{name}"] - found[name], abs=1e-12)
                assert found[f"{name}_drop_low"] <= found[f"{name}_drop"] <= found[f"{name}_drop_high"]
        assert found["selectivity"] == found["target_accuracy_drop"] - found["complement_accuracy_drop"]
        assert found["selectivity_low"] <= found["selectivity"] <= found["selectivity_high"]
        assert found["perplexity"] is None


def test_a_method_without_effect_has_drops_of_exactly_zero(checkpoints, dataset):
    """Accuracy keeps the width that rows not seen may give it, confidence has none, and nothing is left of the rows' own scatter."""
    checkpoint = checkpoints("bert")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    ranges = fit_ranges(statistics, "sports", top=0.3, tau=1e-7)
    ranges.lower[:], ranges.upper[:] = np.inf, -np.inf
    table, _ = evaluate_methods(checkpoint, dataset, [Method(ranges, "zero", "all")], settings())
    found = table.to_pylist()[0]
    names = [name for name in found if "drop" in name or "selectivity" in name or name.startswith("dose")]
    wide = [
        f"{name}{end}"
        for name in ("target_accuracy_drop", "complement_accuracy_drop", "selectivity")
        for end in ("_low", "_high")
    ]
    exact = {*names} - {*wide}
    assert len(exact) > 9
    assert {name: found[name] for name in exact} == dict.fromkeys(exact, 0.0)
    for low, high in zip(wide[::2], wide[1::2], strict=True):
        assert found[low] == pytest.approx(-found[high], abs=1e-12)
    for group, n in (("target", 3), ("complement", 9)):
        _, low, high = (float(part) for part in change_of_rate(0, 0, n))
        assert (found[f"{group}_accuracy_drop_low"], found[f"{group}_accuracy_drop_high"]) == (low, high)
    assert (found["target_p"], found["complement_p"]) == (1.0, 1.0)


def test_target_and_complement_are_drawn_independently(checkpoints, dataset, monkeypatch):
    """Also where both have as many rows, as two balanced concepts do: here both lose every second row, in the same order."""
    n = 40
    truth = np.repeat([0, 1], n)
    edited = np.where(np.arange(2 * n) % 2 == 0, truth, 1 - truth)
    zeros = np.zeros((2, 2 * n), dtype=np.int64)
    scores = RowScores(
        ("finance", "sports"),
        np.arange(2 * n),
        truth,
        np.stack([truth, edited]),
        zeros.astype(np.float32),
        zeros,
        zeros,
        0.0,
        0.0,
    )
    monkeypatch.setattr(sweep, "score_rows", lambda *_, **__: scores)
    checkpoint = checkpoints("bert")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    table, _ = evaluate_methods(checkpoint, dataset, [Method(fit_ranges(statistics, "sports", top=0.3))], settings())
    found = table.to_pylist()[0]
    assert (found["target_accuracy_drop"], found["selectivity"]) == (0.5, 0.0)
    # the standard error of a difference of two rates of a half on 40 rows each is 0.112
    assert found["selectivity_high"] - found["selectivity_low"] == pytest.approx(4 * 0.112, rel=0.25)


STAGES = ("prepare", "extract", "fit", "evaluate")
CHOSEN = {"paper", "whole", "tuned", "tuned/random_neurons", "tuned/random_ranges", "tuned/other_concept"}


def table_of(rows):
    """Labelled text as a table, from (text, label, split)."""
    return pa.table(dict(zip(("text", "label", "split"), map(list, zip(*rows, strict=True)), strict=True)))


def rows_of(dataset):
    return list(zip(dataset.text, dataset.concept, dataset.split, strict=True))


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


def tables_at(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}


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
    first = tmp_path / "first"
    shutil.copytree(tmp_path / "audit" / "evaluate", first)
    run_stage("evaluate", config, tmp_path / "audit", force=True)
    batches = len(ran) - 2 * checked
    assert checked == 2 * 3, "the check of fidelity alone, on both splits at three sites"
    assert batches > 2
    again = tmp_path / "audit" / "evaluate"
    assert tables_at(first) == tables_at(again)
    for name in tables_at(first):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_stage_writes_every_table(audit, with_validation, family):
    folder = audit(family, with_validation)
    assert tables_at(folder) == EVERY_TABLE | {"rows/site=resid_post.2.parquet"}
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
    measured = [f"{name}{end}" for name in ("complement_drop", "log_perplexity") for end in ("", "_low", "_high")]
    assert read_table(folder / "frontier.parquet").schema.names == [
        *("site", "concept", "family", "measure", "target_drop", "reached", "reached_share", *measured, "settings")
    ]
    compared = [f"{name}{end}" for name in ("selectivity", "log_perplexity") for end in ("", "_low", "_high")]
    assert read_table(folder / "matched.parquet").schema.names == [
        *("site", "measure", "against", "target_drop", "concepts", "method_reaches", "other_reaches", *compared)
    ]
    assert read_table(folder / "contrasts.parquet").schema.names == [
        *("site", "method", "against", "effect", "concepts", "mean", "low", "high")
    ]
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
