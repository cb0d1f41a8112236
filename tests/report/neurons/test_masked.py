"""One neuron masked alone does what it does in an edit that has no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronlens.artifact import read_table
from neuronlens.checkpoint import load_checkpoint
from neuronlens.errors import CheckpointError, DatasetError, SiteError, UserError
from neuronlens.report.neurons.masked import mask_neuron
from tests import planted
from tests.conftest import Checkpoints, audit_planted, hooks

SITE = planted.SITES[1]


@pytest.fixture(scope="module")
def read_audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the planted model, with the perplexity of a text in which something follows behind the word of a concept."""
    folder = tmp_path_factory.mktemp("read")
    turned = [" ".join(reversed(words.split())) for words, *_ in planted.rows(fit=2, validation=0, test=0, seed=1)]
    (folder / "text.txt").write_text("\n".join(turned))
    return audit_planted(folder, f"evaluate.auxiliary={folder / 'text.txt'}")


def test_it_is_the_row_of_the_audit_where_the_audit_edits_that_neuron_alone(read_audit: Path) -> None:
    """The audit of the planted model edits one neuron a concept; here it is found again from the stored activations."""
    checkpoint = load_checkpoint(read_audit.with_name("model"))
    results = read_table(read_audit / "evaluate/results.parquet").to_pylist()
    ranges = read_table(read_audit / "fit/ranges.parquet").to_pylist()
    text = read_audit.with_name("text.txt")
    for concept in ("drum", "engine"):
        neuron = planted.neuron_of(concept)
        masked = mask_neuron(read_audit, SITE, neuron, concept, checkpoint, text)
        assert [(row["range"], row["tau"]) for row in masked] == [("gaussian", 2.0), ("full", None)]
        for row in masked:
            key = {"site": SITE, "concept": concept, "range": row["range"], "tau": row["tau"]}
            (stored,) = [one for one in results if all(one[name] == value for name, value in key.items())]
            assert row["perplexity"] != row["base_perplexity"]
            (fitted,) = [one for one in ranges if all(one[name] == value for name, value in key.items())]
            assert {name: stored[name] for name in row if name in stored} == {
                name: value for name, value in row.items() if name in stored
            }
            assert (fitted["lower"], fitted["upper"], fitted["neuron"]) == ([row["lower"]], [row["upper"]], neuron)
    assert hooks(checkpoint.model) == 0


def test_a_neuron_that_does_nothing_costs_nothing(read_audit: Path) -> None:
    checkpoint, text = load_checkpoint(read_audit.with_name("model")), read_audit.with_name("text.txt")
    for row in mask_neuron(read_audit, SITE, 20, "ferry", checkpoint, text):
        assert row["target_accuracy_drop"] == row["complement_accuracy_drop"] == row["target_confidence_drop"] == 0
        assert (row["perplexity"], row["perplexity_ratio"]) == (row["base_perplexity"], 1)


def test_perplexity_is_of_the_audits_own_text_or_of_none(read_audit: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(read_audit.with_name("model"))
    for row in mask_neuron(read_audit, SITE, 0, "apple", checkpoint):
        assert {row[name] for name in row if "perplexity" in name} == {None}
    other = tmp_path / "other.txt"
    other.write_text("filler1 filler2 filler3")
    with pytest.raises(DatasetError, match=r"is not the text that this audit has measured perplexity on"):
        mask_neuron(read_audit, SITE, 0, "apple", checkpoint, other)
    with pytest.raises(DatasetError, match="no such file"):
        mask_neuron(read_audit, SITE, 0, "apple", checkpoint, tmp_path / "gone.txt")


def test_only_the_audits_own_checkpoint_neurons_and_concepts_will_do(
    read_audit: Path, checkpoints: Checkpoints
) -> None:
    own, other = load_checkpoint(read_audit.with_name("model")), checkpoints("gpt2")
    with pytest.raises(CheckpointError, match=r"is not the checkpoint that this audit is of \(model, .* --checkpoint"):
        mask_neuron(read_audit, SITE, 0, "apple", other)
    with pytest.raises(SiteError, match="has no neuron 99"):
        mask_neuron(read_audit, SITE, 99, "apple", own)
    with pytest.raises(UserError, match=r"unknown concept 'appel'. Did you mean 'apple'\?"):
        mask_neuron(read_audit, SITE, 0, "appel", own)
