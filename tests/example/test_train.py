"""A run is the Trainer's: two checkpoints, one history, equal bytes for equal seeds, nothing on stdout."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from neuronlens.example import train


@pytest.fixture
def small(corpus):
    """What four steps need, and enough rows to score."""
    return replace(
        corpus,
        audited=corpus.audited[-100:],
        training=corpus.training[:200],
        training_documents=corpus.training_documents[:50],
        auxiliary=corpus.auxiliary[:20],
    )


@pytest.mark.parametrize("train_model", [train.train_classifier, train.train_language_model])
def test_equal_seeds_give_equal_weights_and_no_output(train_model, small, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(train, "STEPS", (2, 4))

    def weights(folder: str, seed: int) -> list[bytes]:
        scores = train_model(small, tmp_path / folder, seed)
        assert list(scores) == ["checkpoint-2", "checkpoint-4"]
        return [(tmp_path / folder / name / "model.safetensors").read_bytes() for name in scores]

    first, again, other = weights("first", 0), weights("again", 0), weights("other", 1)
    assert first == again
    assert first[0] != first[1]
    assert first[1] != other[1]
    assert capfd.readouterr().out == ""


def test_labels_count_more_than_other_tokens_and_padding_counts_nothing():
    logits = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 3, 5, 0, -100]])
    loss = train._weighted_loss([5])(SimpleNamespace(logits=logits), labels)
    nll = -logits.log_softmax(-1)[0]
    weight = train._LABEL_WEIGHT
    expected = (nll[0, 3] + weight * nll[1, 5] + nll[2, 0]) / (2 + weight)
    torch.testing.assert_close(loss, expected)
