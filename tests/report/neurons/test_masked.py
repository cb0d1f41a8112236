"""One neuron masked alone does what it does in an edit that has no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronlens.artifact import read_table
from neuronlens.checkpoint import load_checkpoint
from neuronlens.errors import CheckpointError, SiteError, UserError
from neuronlens.report.neurons.masked import mask_neuron
from tests import planted
from tests.conftest import Checkpoints, hooks

SITE = planted.SITES[1]


def test_it_is_the_row_of_the_audit_where_the_audit_edits_that_neuron_alone(planted_audit: Path) -> None:
    """The audit of the planted model edits one neuron a concept; here it is found again from the stored activations."""
    checkpoint = load_checkpoint(planted_audit.with_name("model"))
    results = read_table(planted_audit / "evaluate/results.parquet").to_pylist()
    ranges = read_table(planted_audit / "fit/ranges.parquet").to_pylist()
    for concept in ("drum", "engine"):
        neuron = planted.neuron_of(concept)
        masked = mask_neuron(planted_audit, SITE, neuron, concept, checkpoint)
        assert [(row["range"], row["tau"]) for row in masked] == [("gaussian", 2.0), ("full", None)]
        for row in masked:
            key = {"site": SITE, "concept": concept, "range": row["range"], "tau": row["tau"]}
            (stored,) = [one for one in results if all(one[name] == value for name, value in key.items())]
            (fitted,) = [one for one in ranges if all(one[name] == value for name, value in key.items())]
            assert {name: stored[name] for name in row if name in stored} == {
                name: value for name, value in row.items() if name in stored
            }
            assert (fitted["lower"], fitted["upper"], fitted["neuron"]) == ([row["lower"]], [row["upper"]], neuron)
    assert hooks(checkpoint.model) == 0


def test_a_neuron_that_does_nothing_costs_nothing(planted_audit: Path) -> None:
    for row in mask_neuron(planted_audit, SITE, 20, "ferry", load_checkpoint(planted_audit.with_name("model"))):
        assert row["target_accuracy_drop"] == row["complement_accuracy_drop"] == row["target_confidence_drop"] == 0


def test_only_the_audits_own_checkpoint_neurons_and_concepts_will_do(
    planted_audit: Path, checkpoints: Checkpoints
) -> None:
    own, other = load_checkpoint(planted_audit.with_name("model")), checkpoints("gpt2")
    with pytest.raises(CheckpointError, match=r"is not the checkpoint that this audit is of \(model, .* --checkpoint"):
        mask_neuron(planted_audit, SITE, 0, "apple", other)
    with pytest.raises(SiteError, match="has no neuron 99"):
        mask_neuron(planted_audit, SITE, 99, "apple", own)
    with pytest.raises(UserError, match=r"unknown concept 'appel'. Did you mean 'apple'\?"):
        mask_neuron(planted_audit, SITE, 0, "appel", own)
