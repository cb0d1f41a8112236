"""The method once more, as plainly as it can be said: one row at a time, every intervention a whole forward pass with a hook of its own,
statistics by NumPy. It shares no line with the library, so that where the two agree neither is wrong by accident.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

BLOCKS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "llama": "model.layers",
    "qwen2": "model.layers",
    "gemma2": "model.layers",
}
DOWN = {"bert": "output.dense", "roberta": "output.dense", "distilbert": "ffn.lin2", "gpt2": "mlp.c_proj"} | {
    "gpt_neox": "mlp.dense_4h_to_h",
    **dict.fromkeys(("llama", "qwen2", "gemma2"), "mlp.down_proj"),
}


@contextmanager
def hooked(model, family, layer, component, change):
    """Hook a site: `change` sees the activations and gives new ones, or None."""
    block = model.get_submodule(BLOCKS[family])[layer]

    def on_output(_, __, out):
        if isinstance(out, tuple):
            new = change(out[0])
            return None if new is None else (new, *out[1:])
        return change(out)

    def on_input(_, args):
        new = change(args[0])
        return None if new is None else (new, *args[1:])

    if component == "resid_post":
        handle = block.register_forward_hook(on_output)
    else:
        handle = block.get_submodule(DOWN[family]).register_forward_pre_hook(on_input)
    try:
        yield
    finally:
        handle.remove()


def logits_of(model, ids):
    """One row, no padding: [T, V] of a language model, [1, C] of a classifier."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits.float()
    return logits[0] if logits.dim() == 3 else logits


def deciding(family, ids):
    """Place of the token that stands for the row: the last one of decoders, the first one of encoders."""
    return 0 if family in ("bert", "roberta", "distilbert") else len(ids) - 1


def activations(model, family, layer, component, ids):
    """The site's activations at the token that stands for the row."""
    seen = []
    with hooked(model, family, layer, component, lambda hidden: seen.append(hidden.clone())):
        logits_of(model, ids)
    return seen[0][0, deciding(family, ids)].numpy()


def select(target, rest, saliency, top):
    """Neurons by falling saliency, the lower index first where two are equal. target, rest: [n, D]."""
    target, rest = target.astype(np.float64), rest.astype(np.float64)
    if saliency == "mean_abs":
        score = np.abs(target).mean(axis=0)
    else:
        score = np.abs(target.mean(0) - rest.mean(0)) / np.sqrt((target.var(0) + rest.var(0)) / 2)
    return sorted(range(len(score)), key=lambda neuron: (-score[neuron], neuron))[: math.floor(top * len(score))]


def bounds(target, neurons, kind, tau):
    """(lower, upper) of each neuron, float32."""
    if kind == "full":
        return {neuron: (np.float32(-np.inf), np.float32(np.inf)) for neuron in neurons}
    exact = target.astype(np.float64)
    middle, width = exact.mean(axis=0), tau * exact.std(axis=0)
    return {j: (np.float32(middle[j] - width[j]), np.float32(middle[j] + width[j])) for j in neurons}


def edited(value, lower, upper, operator, replacement):
    """What becomes of a value that lies in the range."""
    if operator == "zero":
        return 0.0
    if operator == "complement_mean":
        return float(replacement)
    if not math.isfinite(upper - lower):
        return 0.0
    return float(value * 0.125 * abs(value - (lower + upper) / 2) / ((upper - lower) / 2))


def logits_under_edit(model, family, layer, component, ids, ranges, operator, replacement, positions):
    """Logits of one row with the edit, how many activations it changed, and how many it looked at. positions: all or pooled."""
    changed, looked_at = 0, 0

    def change(hidden):
        nonlocal changed, looked_at
        changed, looked_at, new = 0, 0, hidden.clone()
        for place in range(len(ids)) if positions == "all" else [deciding(family, ids)]:
            for neuron, (lower, upper) in ranges.items():
                looked_at += 1
                value = np.float32(hidden[0, place, neuron])
                if lower <= value <= upper:
                    changed += 1
                    new[0, place, neuron] = edited(float(value), lower, upper, operator, replacement[neuron])
        return new

    with hooked(model, family, layer, component, change):
        logits = logits_of(model, ids)
    return logits, changed, looked_at


def answer(logits, ids, scoring, own):
    """(right or wrong, confidence in the true label) from the deciding logits [V]; ids: concept -> class or token."""
    probabilities = torch.softmax(logits, dim=-1)
    named = max(ids.values(), key=lambda token: logits[token]) if scoring == "constrained" else int(logits.argmax())
    right = named == ids[own]
    return right, float(probabilities[ids[own]])


def nll(logits, ids):
    """Sum of the token losses of a document."""
    return float(-torch.log_softmax(logits[:-1], dim=-1)[range(len(ids) - 1), ids[1:]].double().sum())


def audit(
    model, family, layer, component, rows, ids, documents, methods, *, positions, scoring
) -> list[dict[str, Any]]:
    """Every method on every concept.

    Args:
        rows: (token ids, concept, split) of each row.
        ids: concept -> class or first token of its label.
        documents: token ids of ordinary texts, for perplexity; none for classifiers.
        methods: (concept, saliency, top, kind, tau, operator).
    """
    site = (model, family, layer, component)
    fit = {concept: [t for t, own, split in rows if (own, split) == (concept, "fit")] for concept in ids}
    pooled = {concept: np.stack([activations(*site, tokens) for tokens in fit[concept]]) for concept in ids}
    test = [(tokens, concept) for tokens, concept, split in rows if split == "test"]
    plain = [answer(logits_of(model, tokens)[-1], ids, scoring, own) for tokens, own in test]
    plain_losses = [nll(logits_of(model, tokens), tokens) for tokens in documents]
    predicted = sum(len(tokens) - 1 for tokens in documents)
    results = []
    for concept, saliency, top, kind, tau, operator in methods:
        rest = np.concatenate([values for name, values in pooled.items() if name != concept])
        neurons = select(pooled[concept], rest, saliency, top)
        ranges, replacement = bounds(pooled[concept], neurons, kind, tau), rest.astype(np.float64).mean(axis=0)
        how = (ranges, operator, replacement, positions)
        passes = [logits_under_edit(*site, tokens, *how) for tokens, _ in test]
        after = [answer(out[0][-1], ids, scoring, own) for out, (_, own) in zip(passes, test, strict=True)]
        found: dict[str, Any] = {"neurons": neurons, "bounds": list(ranges.values())}
        for group in ("target", "complement"):
            members = [i for i, (_, own) in enumerate(test) if (own == concept) == (group == "target")]
            for at, measure in enumerate(("accuracy", "confidence")):
                found[f"base_{group}_{measure}"] = float(np.mean([plain[i][at] for i in members]))
                found[f"{group}_{measure}"] = float(np.mean([after[i][at] for i in members]))
            found[f"dose_{group}"] = sum(passes[i][1] for i in members) / sum(passes[i][2] for i in members)
        if documents:
            losses = [nll(logits_under_edit(*site, tokens, *how)[0], tokens) for tokens in documents]
            found["perplexity"], found["base_perplexity"] = (
                math.exp(sum(part) / predicted) for part in (losses, plain_losses)
            )
        results.append(found)
    return results
