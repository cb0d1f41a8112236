"""What a manifest says of autoencoders: their reconstruction is measured on rows and on ordinary text as an edit is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from neuronlens.evaluation.matched import Losses
from neuronlens.evaluation.reconstruction import Quality, reconstruction_rows
from neuronlens.evaluation.text import PERPLEXITY, perplexity_columns
from neuronlens.evaluation.uncertainty import change_of_rate, mean
from tests.evaluation.by_hand import scores

TRUTH = np.tile([0, 1, 2], 8)


def items():
    """Two sites of latents, as far as they are told of."""
    return [
        SimpleNamespace(latents=f"sae_resid_post.{layer}", autoencoder=SimpleNamespace(fingerprint=name, latents=count))
        for layer, name, count in ((0, "one", 40), (3, "two", 64))
    ]


def quality(spread=(8.0, 0.0)):
    return Quality(16, np.array(spread), np.array([2.0, 0.0]), np.array([80.0, 24.0]))


def test_every_column_is_a_recount():
    drawn = np.random.default_rng(1)
    right, sure = drawn.random((3, 24)) < 0.7, drawn.random((3, 24)).astype(np.float32)
    losses = Losses(50 + drawn.random((3, 5)), np.arange(20, 25))
    found = reconstruction_rows(items(), quality(), scores(TRUTH, right, sure), losses)
    assert [(row["site"], row["fingerprint"], row["latents"]) for row in found] == [
        ("sae_resid_post.0", "one", 40),
        ("sae_resid_post.3", "two", 64),
    ]
    assert [(row["explained_variance"], row["active"]) for row in found] == [(0.75, 5.0), (None, 1.5)]
    text = perplexity_columns((losses.losses, losses.predicted), 2)
    for i, row in enumerate(found, start=1):
        for name, values in (("accuracy", right), ("confidence", sure.astype(np.float64))):
            assert row[f"base_{name}"] == pytest.approx(values[0].mean())
            assert row[name] == pytest.approx(values[i].mean())
            assert row[f"{name}_drop"] == pytest.approx(values[0].mean() - values[i].mean())
        lost, gained = (right[0] & ~right[i]).sum(), (~right[0] & right[i]).sum()
        for name, drop in (
            ("accuracy", change_of_rate([lost], [gained], 24)),
            ("confidence", mean((sure[0].astype(np.float64) - sure[i])[None])),
        ):
            ends = [row[f"{name}_drop{end}"] for end in ("", "_low", "_high")]
            assert ends == pytest.approx([float(part[0]) for part in drop])
        assert {name: row[name] for name in PERPLEXITY} == text[i - 1]


def test_without_ordinary_text_there_is_no_perplexity_and_one_row_says_nothing_of_its_scatter():
    found = reconstruction_rows(items(), quality(), scores([0], np.ones((3, 1))), None)
    for row in found:
        assert {row[name] for name in PERPLEXITY} == {None}
        assert [row[f"confidence_drop{end}"] for end in ("_low", "", "_high")] == [-1, 0, 1]
