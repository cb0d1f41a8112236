"""The sweep says what a plain implementation of the method says, one row and one intervention at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from neuronlens.activations.extract import collect_activations
from neuronlens.activations.ordinary import Ordinary
from neuronlens.config import Config
from neuronlens.evaluation import sweep
from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.sweep import evaluate_methods
from neuronlens.evaluation.text import document_losses, perplexity
from neuronlens.evaluation.uncertainty import change_of_rate, wilson
from neuronlens.params import load_config
from neuronlens.ranges.leace import fit_erasures
from neuronlens.ranges.selection import Ranges, fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.sites import Site
from neuronlens.text_files import read_documents
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
        tokens_of = Ordinary(np.ascontiguousarray(running.T), [""] * len(running))
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


def test_ordinary_text_is_cut_as_rows_are(checkpoints, dataset, auxiliary):
    checkpoint = checkpoints("gpt2")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    methods = [Method(fit_ranges(statistics, "sports", top=0.3), "zero")]
    found = {}
    for most in (6, 128):
        config = load_config(None, [f"dataset.max_tokens={most}", f"evaluate.auxiliary={auxiliary}"])
        table, _ = evaluate_methods(checkpoint, dataset, methods, config)
        documents = read_documents(auxiliary, config.evaluate.auxiliary_rows)
        edits = [method.edit("auto") for method in methods]
        expected = perplexity(*document_losses(checkpoint, documents, edits, max_tokens=most))
        found[most] = table["base_perplexity"][0].as_py(), table["perplexity"][0].as_py()
        assert found[most] == pytest.approx(tuple(expected), rel=1e-6)
    assert found[6] != found[128]
