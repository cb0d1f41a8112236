"""The sweep says what a plain implementation of the method says, one row and one intervention at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from neuronlens.activations.extract import collect_activations
from neuronlens.config import Config
from neuronlens.evaluation import sweep
from neuronlens.evaluation.scoring import RowScores
from neuronlens.evaluation.sweep import Method, evaluate_methods
from neuronlens.evaluation.uncertainty import wilson
from neuronlens.ranges.fit import fit_ranges, fit_statistics
from neuronlens.sites import Site
from tests import reference
from tests.conftest import labelled, sentences
from tests.models import LAYERS

CONCEPTS = ("finance", "health", "sports")
PROMPT = "{text} Topic:"
ASKED = [
    (concept, *method)
    for concept, method in product(
        CONCEPTS,
        [
            ("d_prime", 0.3, "gaussian", 1.5, "zero"),
            ("d_prime", 0.3, "gaussian", 2.5, "dampen"),
            ("mean_abs", 0.3, "gaussian", 1.5, "complement_mean"),
            ("mean_abs", 0.1, "full", None, "zero"),
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

    for layer in layers:
        statistics = fit_statistics(activations, Site(layer, component), rows="all")
        methods = [
            Method(fit_ranges(statistics, concept, saliency=saliency, top=top, kind=kind, tau=tau), operator, positions)
            for concept, saliency, top, kind, tau, operator in ASKED
        ]
        table, _ = evaluate_methods(checkpoint, topics, methods, config)
        expected = reference.audit(
            model, family, layer, component, rows, ids, documents, ASKED, positions=positions, scoring=scoring
        )
        for asked, method, found, plain in zip(ASKED, methods, table.to_pylist(), expected, strict=True):
            where = f"layer {layer}, {asked}"
            assert method.ranges.neurons.tolist() == plain["neurons"], where
            ours = np.stack([method.ranges.lower[:, 0], method.ranges.upper[:, 0]], axis=1)
            np.testing.assert_allclose(ours, plain["bounds"], rtol=1e-6, atol=1e-6, err_msg=where)
            for group in ("target", "complement"):
                assert found[f"dose_{group}"] == plain[f"dose_{group}"], where
                for prefix in ("", "base_"):
                    assert found[f"{prefix}{group}_accuracy"] == plain[f"{prefix}{group}_accuracy"], where
                    name = f"{prefix}{group}_confidence"
                    assert found[name] == pytest.approx(plain[name], rel=1e-5), where
            for name in ("perplexity", "base_perplexity"):
                assert (found[name] is None) == classifier
                if not classifier:
                    assert found[name] == pytest.approx(plain[name], rel=1e-5), where
        moved = [row["target_confidence"] != row["base_target_confidence"] for row in table.to_pylist()]
        assert sum(moved) > 6, "the edits must make a difference"


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
    """The paired bootstrap draws the same rows for both models, so nothing is left of the rows' own scatter."""
    checkpoint = checkpoints("bert")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    ranges = fit_ranges(statistics, "sports", top=0.3, tau=1e-7)
    ranges.lower[:], ranges.upper[:] = np.inf, -np.inf
    table, _ = evaluate_methods(checkpoint, dataset, [Method(ranges, "zero", "all")], settings())
    found = table.to_pylist()[0]
    names = [name for name in found if "drop" in name or "selectivity" in name or name.startswith("dose")]
    assert len(names) > 15
    assert {name: found[name] for name in names} == dict.fromkeys(names, 0.0)


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


def test_method_names_tell_methods_apart(checkpoints, dataset):
    statistics = fit_statistics(collect_activations(checkpoints("gpt2"), dataset), "resid_post.2", rows="all")
    ranges = fit_ranges(statistics, "sports", saliency="d_prime", top=0.1, tau=2.5)
    assert Method(ranges, "zero", "all").name == "gaussian-2.5/d_prime/0.1/zero/all"
    assert Method(fit_ranges(statistics, "sports", kind="full", top=0.3), "dampen:0.5", "last").name == (
        "full/d_prime/0.3/dampen:0.5/last"
    )
