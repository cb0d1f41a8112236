"""`python -m benchmarks.scaling`: what an audit of a large model has to do, and how long cards take over it. Arithmetic, nothing is run.

It writes the tables of docs/scaling.md. Work is counted as `neuronlens plan` counts it, on the model's config alone; what a card does in a
second is an assumption that stands beside the tables.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import LlamaConfig

from benchmarks.tables import filled_with
from neuronlens.activations.store import plan_shards
from neuronlens.config import Config
from neuronlens.evaluation.cost import Shape, deciding_route, text_route
from neuronlens.plan import Edits
from neuronlens.sites import Site

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"

LLAMA = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
ROWS, TOKENS = 50_000, 64  # of each row, prompt included
CONCEPTS = 14
SPLITS = {"fit": 0.6, "validation": 0.2, "test": 0.2}
DOCUMENTS, DOCUMENT_TOKENS = 200, 128
STORED = 0.35  # of float32, of values that came from bfloat16: benchmarks/storage.py
PARTS = 32  # of each kind of evaluation, at most

CARD = 989e12  # multiply-adds count twice: an H100's dense bfloat16, by its data sheet
REACHED = 0.4  # of that, by a forward pass on long batches
STORE = 1e9  # bytes a second between a worker and the store


@dataclass(frozen=True)
class Work:
    """What an audit of some sites has to do.

    Attributes:
        sites: in words.
        shards: of the extraction.
        validation, test, text: passes' worth of work of the evaluation, in plain passes over all rows.
        stored: bytes on disk.
    """

    sites: str
    shards: int
    validation: float
    test: float
    text: float
    stored: float


def shape() -> Shape:
    """Of the model; no weights are made."""
    known: Any = SimpleNamespace(config=LLAMA, kind="language_model")
    return Shape.of(known, TOKENS)


def weights() -> float:
    """Of the blocks."""
    c = LLAMA
    attention = c.hidden_size * (
        c.hidden_size * 2 + 2 * c.num_key_value_heads * (c.hidden_size // c.num_attention_heads)
    )
    return float(c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size))


def pass_seconds() -> float:
    """Of a plain pass over all rows, on one card."""
    return 2 * weights() * ROWS * TOKENS / (CARD * REACHED)


def work(name: str, layers: Sequence[int]) -> Work:
    """Of some layers' resid_post, by the default parameters."""
    model, asked = shape(), Config()
    edits = Edits.of(asked, CONCEPTS, len(layers), validated=True)
    spent = {"validation": 0.0, "test": 0.0, "text": 0.0}
    for layer in layers:
        site = Site(layer, "resid_post")
        for split, count in (("validation", edits.validation), ("test", edits.test)):
            rows = round(SPLITS[split] * ROWS)
            route = deciding_route(model, site, device="cuda", batch=32_768)
            spent[split] += route.work(count, rows, rows * TOKENS)
        route = text_route(model, site, LLAMA.hidden_size, asked.interventions.top)
        spent["text"] += route.work(edits.test, DOCUMENTS, DOCUMENTS * DOCUMENT_TOKENS)
    every = ROWS * TOKENS
    batch = 32_768 // TOKENS
    batches = [("fit", i, np.arange(batch)) for i in range(math.ceil(ROWS / batch))]
    shards = len(plan_shards(batches, [LLAMA.hidden_size] * len(layers)))
    stored = ROWS * LLAMA.hidden_size * len(layers) * 4 * STORED
    return Work(name, shards, *(spent[kind] / every for kind in ("validation", "test", "text")), stored)


def seconds(found: Work, cards: int, *, store: bool) -> tuple[float, float]:
    """Of extraction and of evaluation, where each part goes to the next free card.

    Args:
        store: whether parts travel through a store.
    """
    one = pass_seconds()

    def shared(passes: float, parts: int) -> float:
        return passes * one * math.ceil(parts / min(cards, parts)) / parts

    extraction = shared(1.0, found.shards) + (
        found.stored / STORE / min(cards, found.shards) + found.stored / STORE if store else 0
    )
    return extraction, sum(shared(passes, PARTS) for passes in (found.validation, found.test, found.text))


def tables() -> dict[str, str]:
    """Name -> table, in Markdown."""
    works = [work("the last layer", [31]), work("the middle layer", [15]), work("all 32 layers", range(32))]
    return {"work": "\n".join(_work(works)), "time": "\n".join(_time(works))}


def _work(works: Sequence[Work]) -> Iterator[str]:
    one = pass_seconds()
    yield (
        f"One pass over {ROWS:,} rows of {TOKENS} tokens: {2 * weights() * ROWS * TOKENS / 1e15:.1f} PFLOP, {one:.0f} s of a card, "
        f"{ROWS * TOKENS / one:,.0f} tokens a second."
    )
    yield ""
    yield "| sites | shards | passes: extract | validation | test | perplexity | activations on disk |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for found in works:
        yield (
            f"| {found.sites} | {found.shards} | 1.0 | {found.validation:,.1f} | {found.test:,.1f} | {found.text:,.1f} "
            f"| {found.stored / 1e9:.1f} GB |"
        )


def _time(works: Sequence[Work]) -> Iterator[str]:
    yield "| sites | cards | extract | evaluate | with a store: extract |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for found in works:
        for cards in (1, 8, 32):
            extraction, evaluation = seconds(found, cards, store=False)
            through, _ = seconds(found, cards, store=True)
            yield f"| {found.sites} | {cards} | {_told(extraction)} | {_told(evaluation)} | {_told(through)} |"


def _told(spent: float) -> str:
    return f"{spent:.0f} s" if spent < 120 else f"{spent / 60:.0f} min" if spent < 7200 else f"{spent / 3600:.1f} h"


def main() -> int:
    """Print the tables, and write them into the document."""
    found = tables()
    print("\n\n".join(found.values()))
    DOCUMENT.write_text(filled_with(DOCUMENT.read_text(encoding="utf-8"), found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
