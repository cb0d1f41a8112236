"""The example's texts, drawn once."""

from __future__ import annotations

import pytest

from neuronlens.example.corpus import Corpus, generate


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return generate(0)
