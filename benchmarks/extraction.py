"""What reading costs beside a plain forward pass, on GPT-2-small's and BERT-base's configs with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmarks import profile
from benchmarks.measure import Ratio, interleave
from neuronlens.activations.batching import Batch, collate, split_batches, token_budget_batches
from neuronlens.activations.memory import CPU_TOKENS
from neuronlens.activations.readout import has_vocabulary

READ_ROWS = 48  # where batches are compared with others of the same rows: few rows make small batches
MANY_ROWS = 3000
FIXED_TOKENS = 408


def run() -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    yield f"padding of {MANY_ROWS} rows, share of the tokens of their batches", [padding(MANY_ROWS)]
    for name, model in (
        ("GPT-2 small", GPT2LMHeadModel(GPT2Config())),
        ("BERT base", BertForSequenceClassification(BertConfig())),
    ):
        model.eval()
        with torch.inference_mode():
            yield f"{name}: extraction, over the blocks alone on the same batches", extraction(model)
            if isinstance(model, GPT2LMHeadModel):
                yield f"{name}: every row padded to {FIXED_TOKENS} tokens, over packed rows", [fixed_padding(model)]
                yield f"{name}: the blocks on batches of other sizes, over {CPU_TOKENS} tokens", batch_sizes(model)


def packed(count: int, rows: int = MANY_ROWS) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of realistic lengths, and which of them make up each of `count` batches of those that many rows are packed into.

    Batches hold equal numbers of tokens, so evenly chosen ones stand for all.
    """
    encoded = profile.rows_of(rows)
    every = token_budget_batches([len(ids) for ids in encoded], CPU_TOKENS)
    return encoded, [every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)]


def batches(model: PreTrainedModel, count: int) -> list[Batch]:
    """Some of the batches that many rows are packed into."""
    encoded, chosen = packed(count)
    return [collate(encoded, members, pad_id=0, device=model.device) for members in chosen]


def padding(count: int) -> Ratio:
    """Of batches of the size that suits a processor."""
    lengths = [len(ids) for ids in profile.rows_of(count)]
    batched = sum(len(rows) * lengths[rows[-1]] for rows in token_budget_batches(lengths, CPU_TOKENS))
    share = 1 - sum(lengths) / batched
    return Ratio(f"batches of {CPU_TOKENS} tokens", share, share, share)


def extraction(model: PreTrainedModel, count: int = READ_ROWS, rounds: int = 15) -> list[Ratio]:
    """resid_post and mlp_post of all layers pooled on the spot, the answers, and the hidden states that evaluation starts from."""
    encoded = profile.rows_of(count)
    split = [profile.SPLITS[i % len(profile.SPLITS)] for i in range(count)]
    packed = split_batches([len(ids) for ids in encoded], split, CPU_TOKENS)
    rows = [collate(encoded, own, pad_id=0, device=model.device) for members in packed.values() for own in members]
    read = deepcopy(model)  # which has hooks from beginning to end
    return interleave(
        lambda: blocks(model, rows),
        {
            "all 24 sites, answers and hidden states": lambda: profile.extraction(read, encoded, CPU_TOKENS),
            "the blocks again (noise)": lambda: blocks(model, rows),
        },
        rounds,
    )


def fixed_padding(model: PreTrainedModel, count: int = 4, length: int = FIXED_TOKENS, rounds: int = 3) -> Ratio:
    """The blocks on rows as they come, eight at a time, over the same rows as they are packed among many."""
    encoded, chosen = packed(count)
    members, padded = np.random.default_rng(0).permutation(np.concatenate(chosen)), []
    for start in range(0, len(members), 8):
        own = members[start : start + 8]
        ids, mask = torch.zeros(2, len(own), length, dtype=torch.long)
        for i, row in enumerate(own):
            ids[i, : len(encoded[row])] = torch.tensor(encoded[row])
            mask[i, : len(encoded[row])] = 1
        padded.append(Batch(own, ids, mask, (mask.cumsum(1) - 1).clamp(min=0)))
    usual = batches(model, count)
    (ratio,) = interleave(lambda: blocks(model, usual), {"padded": lambda: blocks(model, padded)}, rounds)
    return ratio


def batch_sizes(model: PreTrainedModel, count: int = 24, length: int = 128, rounds: int = 3) -> list[Ratio]:
    """The blocks on rows of one length, which need no padding whatever the batch."""
    encoded = np.random.default_rng(0).integers(model.config.vocab_size, size=(count, length)).tolist()

    def of(tokens: int) -> list[Batch]:
        members = token_budget_batches([length] * count, tokens)
        return [collate(encoded, own, pad_id=0, device=model.device) for own in members]

    sizes = {f"{tokens} tokens": of(tokens) for tokens in (CPU_TOKENS // 2, CPU_TOKENS * 3 // 4, CPU_TOKENS * 3)}
    variants = {name: lambda batches=batches: blocks(model, batches) for name, batches in sizes.items()}
    usual = of(CPU_TOKENS)
    return interleave(lambda: blocks(model, usual), variants, rounds)


def blocks(model: PreTrainedModel, rows: Sequence[Batch]) -> Iterator[None]:
    """Forward passes without a head, batch by batch."""
    for batch in rows:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if has_vocabulary(model):
            inputs |= {"position_ids": batch.position_ids, "use_cache": False}
        model.base_model(**inputs)
        yield
