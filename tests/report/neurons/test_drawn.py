"""The neurons shown are the most selective ones, with the counts and ranges of the fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neuronlens.artifact import read_table
from neuronlens.report.neurons.drawn import card_entry, cards_of, most_selective
from tests.report.artifacts import CONCEPTS, activations


def test_they_have_the_highest_d_prime_of_all_selected(audit_inputs: dict[str, Path]) -> None:
    fit = audit_inputs["fit"]
    ranges = read_table(fit / "ranges.parquet").to_pylist()
    selected = {
        (row["site"], row["concept"], row["neuron"]) for row in ranges if row["range"] == "gaussian" and row["tau"] == 2
    }
    cards = most_selective(fit, 2.0, 3)
    assert sorted(cards) == sorted(CONCEPTS)
    for concept, found in cards.items():
        rows = read_table(fit / "statistics.parquet").to_pylist()
        scores = [
            row["d_prime"]
            for row in rows
            if (row["site"], concept, row["neuron"]) in selected and row["concept"] == concept
        ]
        assert [card.d_prime for card in found] == sorted(scores, reverse=True)[:3]
        assert found[0].neuron == sorted(CONCEPTS).index(concept)  # the neuron that was shifted on this concept


def test_ranges_and_counts_are_those_of_the_rows(audit_inputs: dict[str, Path]) -> None:
    values = activations(CONCEPTS, ["mlp_post.1"])
    for concept, found in most_selective(audit_inputs["fit"], 2.5, 5).items():
        own = np.array(values.concept) == concept
        for card in (card for card in found if card.site == "mlp_post.1"):
            (site,) = values.sites
            drawn = values.values[site][card.neuron].astype(np.float64)
            mean, std = drawn[own].mean(), drawn[own].std()
            assert (card.lower, card.upper) == pytest.approx((mean - 2.5 * std, mean + 2.5 * std), rel=1e-5)
            assert card.target.tolist() == np.histogram(drawn[own], card.edges)[0].tolist()
            assert card.complement.tolist() == np.histogram(drawn[~own], card.edges)[0].tolist()
            assert card.complement.sum() == (~own).sum()
            everyone = card.target + card.complement
            assert everyone[0] > 0 < everyone[-1], "bins without any row at the ends would be drawn as empty space"
            inside = (drawn >= card.lower) & (drawn <= card.upper)
            assert card.dose_target == pytest.approx(inside[own].mean())


def test_a_card_survives_the_document(audit_inputs: dict[str, Path]) -> None:
    cards = most_selective(audit_inputs["fit"], 2.0, 2)
    entries = [card_entry(card) for found in cards.values() for card in found]
    assert [card_entry(card) for found in cards_of({"neurons": entries}).values() for card in found] == entries
