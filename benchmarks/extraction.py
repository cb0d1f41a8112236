"""What reading costs beside a plain forward pass, on GPT-2-small's and BERT-base's configs with random weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmarks.measure import Ratio, interleave
from benchmarks.profile import rows_of
from neuronlens.activations.batching import Batch, collate, token_budget_batches
from neuronlens.activations.capture import capture
from neuronlens.activations.readout import deciding_logits
from neuronlens.sites import Site

ROWS, BATCH_TOKENS = 24, 768


def run() -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    for name, model in (
        ("GPT-2 small", GPT2LMHeadModel(GPT2Config())),
        ("BERT base", BertForSequenceClassification(BertConfig())),
    ):
        model.eval()
        with torch.inference_mode():
            yield f"{name}: extraction, over a plain forward pass on the same batches", extraction(model)


def batches(model: PreTrainedModel, rows: int = ROWS) -> list[Batch]:
    """Rows of realistic lengths, sorted and packed."""
    encoded = rows_of(rows)
    packed = token_budget_batches([len(ids) for ids in encoded], BATCH_TOKENS)
    return [collate(encoded, members, pad_id=0, device=model.device) for members in packed]


def extraction(model: PreTrainedModel) -> list[Ratio]:
    """resid_post and mlp_post of all layers, pooled on the spot, and the answers, from one pass."""
    rows = batches(model)
    sites = [Site(layer, component) for layer in range(12) for component in ("resid_post", "mlp_post")]

    def plain() -> None:
        for batch in rows:
            deciding_logits(model, batch)

    def hooked() -> None:
        with capture(model, sites):
            plain()

    return interleave(plain, {"all 24 sites pooled": hooked, "plain again (noise)": plain})
