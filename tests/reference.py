"""The method once more, as plainly as it can be said: one row at a time, every intervention a whole forward pass with a hook of its own,
statistics by NumPy. It shares no line with the library, so that where the two agree neither is wrong by accident.
"""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

BLOCKS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "deberta-v2": "deberta.encoder.layer",
    "electra": "electra.encoder.layer",
    "modernbert": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "bloom": "transformer.h",
}
DOWN = {
    **dict.fromkeys(("bert", "roberta", "deberta-v2", "electra"), "output.dense"),
    "distilbert": "ffn.lin2",
    "modernbert": "mlp.Wo",
    "gpt2": "mlp.c_proj",
    **dict.fromkeys(("gpt_neox", "bloom"), "mlp.dense_4h_to_h"),
    "opt": "fc2",
}
# what is added to the residual stream
ATTENTION_OUT = {
    **dict.fromkeys(("bert", "roberta", "deberta-v2", "electra"), "attention.output.dense"),
    "distilbert": "attention.out_lin",
    "modernbert": "attn",
    "gpt2": "attn",
    "gpt_neox": "attention",
    "opt": "self_attn",
    "bloom": "self_attention.dense",
}
MLP_OUT = {
    **dict.fromkeys(("bert", "roberta", "deberta-v2", "electra"), "output.dense"),
    "distilbert": "ffn",
    **dict.fromkeys(("modernbert", "gpt2", "gpt_neox"), "mlp"),
    "opt": "fc2",
    "bloom": "mlp.dense_4h_to_h",
}
for _family in ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "olmo2"):
    _normed = _family in ("gemma2", "gemma3_text", "olmo2")
    BLOCKS[_family], DOWN[_family] = "model.layers", "mlp.down_proj"
    ATTENTION_OUT[_family] = "post_attention_layernorm" if _normed else "self_attn"
    MLP_OUT[_family] = "post_feedforward_layernorm" if _normed else "mlp"


@contextmanager
def hooked(model, family, layer, component, change):
    """Hook a site: `change` sees the activations and gives new ones, or None. Where tokens lie in a line they are those of one row."""
    block = model.get_submodule(BLOCKS[family])[layer]

    def changed(hidden):
        new = change(hidden[None] if hidden.dim() == 2 else hidden)
        return None if new is None else new.reshape(hidden.shape)

    def on_output(_, __, out):
        if isinstance(out, tuple):
            new = changed(out[0])
            return None if new is None else (new, *out[1:])
        return changed(out)

    def on_input(_, args):
        new = changed(args[0])
        return None if new is None else (new, *args[1:])

    if component == "mlp_post":
        handle = block.get_submodule(DOWN[family]).register_forward_pre_hook(on_input)
    else:
        path = {"resid_post": "", "attn_out": ATTENTION_OUT.get(family), "mlp_out": MLP_OUT.get(family)}[component]
        handle = block.get_submodule(path).register_forward_hook(on_output)
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
    return 0 if family in ("bert", "roberta", "distilbert", "deberta-v2", "electra", "modernbert") else len(ids) - 1


def everywhere(model, family, layer, component, ids):
    """[T, D] the site's activations at every token of a row."""
    seen = []
    with hooked(model, family, layer, component, lambda hidden: seen.append(hidden.clone())):
        logits_of(model, ids)
    return seen[0][0].numpy()


def activations(model, family, layer, component, ids):
    """The site's activations at the token that stands for the row."""
    return everywhere(model, family, layer, component, ids)[deciding(family, ids)]


def select(target, rest, saliency, top):
    """Neurons by falling saliency, the lower index first where two are equal. target, rest: [n, D]."""
    target, rest = target.astype(np.float64), rest.astype(np.float64)
    if saliency == "mean_abs":
        score = np.abs(target).mean(axis=0)
    else:
        score = np.abs(target.mean(0) - rest.mean(0)) / np.sqrt((target.var(0) + rest.var(0)) / 2)
    return sorted(range(len(score)), key=lambda neuron: (-score[neuron], neuron))[: math.floor(top * len(score))]


def bounds(groups, neurons, kind, tau, threshold):
    """Intervals of each neuron, float32. groups: [n, D] rows of the concept, of the others, and ordinary tokens."""
    if kind == "full":
        return {neuron: [(np.float32(-np.inf), np.float32(np.inf))] for neuron in neurons}
    exact = [group.astype(np.float64) for group in groups]
    if kind == "discriminative":
        return {j: denser(*(group[:, j] for group in exact), threshold) for j in neurons}
    middle, width = exact[0].mean(axis=0), tau * exact[0].std(axis=0)
    return {j: [(np.float32(middle[j] - width[j]), np.float32(middle[j] + width[j]))] for j in neurons}


def denser(own, rest, ordinary, threshold, bins=32, most=3):
    """Intervals of one neuron where the concept is denser than both others, those that hold most of it first."""
    groups = [group for group in (own, rest, ordinary) if len(group)]
    quantiles = sorted(value for group in groups for value in np.quantile(group, np.linspace(0, 1, bins + 1)))
    many = len(groups)
    edges = [(quantiles[many * i + (many - 1) // 2] + quantiles[many * i + many // 2]) / 2 for i in range(bins + 1)]
    edges[0], edges[-1] = quantiles[0], quantiles[-1]

    def bin_of(value):
        if edges.count(value) > 1:  # a bin of no width, for a value that many rows share
            return edges.index(value)
        return min(max(i for i in range(bins + 1) if edges[i] <= value), bins - 1)

    void = [i > 0 and edges[i - 1] == edges[i] == edges[i + 1] for i in range(bins)]
    densities = []
    for group in groups:
        found = [bin_of(value) for value in group]
        counts = [found.count(i) for i in range(bins)]
        around = [counts[0], *counts, counts[-1]]
        smooth = [(a + 2 * b + c) / 4 + 0.5 for a, b, c in zip(around, counts, around[2:], strict=False)]
        shares = [0.0 if nothing else share for nothing, share in zip(void, smooth, strict=True)]
        densities.append([share / sum(shares) for share in shares])
    dense = [share > threshold * max(others) for share, *others in zip(*densities, strict=True)]
    for i in range(1, bins):
        dense[i] = dense[i - 1] if void[i] else dense[i]
    runs = []
    for i in range(bins):
        if dense[i] and i and dense[i - 1]:
            runs[-1].append(i)
        elif dense[i]:
            runs.append([i])
    intervals = []
    held = {min(run): np.sum([share if i in run else 0.0 for i, share in enumerate(densities[0])]) for run in runs}
    for run in sorted(runs, key=lambda run: -held[min(run)])[:most]:
        first, last = run[0], run[-1]
        lower, upper = edges[first], edges[last + 1]
        # the shared value that a bin starts from belongs to the bin before it, and a bin ends short of where the next one starts
        beyond, short = first > 0 and edges[first - 1] == lower, last < bins - 1 and edges[last] < upper
        lower -= own.std() if first == 0 else 0
        upper += own.std() if last == bins - 1 else 0
        intervals.append((least_single(lower, beyond), -least_single(-upper, short)))
    return intervals


def least_single(value, beyond):
    """The least number of single precision that is at least a value, or greater than it."""
    near = np.float32(value)
    too_low = float(near) <= value if beyond else float(near) < value
    return np.nextafter(near, np.float32(np.inf)) if too_low else near


def holds(intervals, value):
    """Whether one of the closed intervals holds a value."""
    return any(lower <= value <= upper for lower, upper in intervals)


def evidence(token, ranges, weights):
    """What the neurons together say of a token [D], against each of the others, added up in single precision."""
    totals = [np.float32(0)] * len(next(iter(weights.values())))
    for neuron, intervals in ranges.items():
        which = 0 if holds(intervals, token[neuron]) else 1
        totals = [total + pair[which] for total, pair in zip(totals, weights[neuron], strict=True)]
    return totals


def agreement(groups, ranges):
    """The gate: neuron -> (evidence inside, evidence outside) against each other group, and the least sums of a token that is edited."""
    weights = {}
    for neuron, intervals in ranges.items():
        shares = [np.mean([holds(intervals, token[neuron]) for token in group]) for group in groups if len(group)]
        own, *others = (min(max(share, 0.01), 0.99) for share in shares)
        exact = [(math.log(own / rest), math.log((1 - own) / (1 - rest))) for rest in others]
        # whole steps add up alike in every order
        weights[neuron] = [tuple(round(part * 256) / 256 for part in pair) for pair in exact]
    sums = [np.array([evidence(token, ranges, weights) for token in group]) for group in groups if len(group)]
    tried = [np.unique(np.quantile(column, np.linspace(0, 1, 201), method="lower")) for column in sums[0].T]
    found = []
    for least in itertools.product(*tried):
        own, *others = ((group >= np.array(least)).all(axis=1).mean() for group in sums)
        found.append((own, own - max(others), least))
    best = max(worth for _, worth, _ in found)
    # of those nearly as good as the best, what lets through most of the concept; then the best of them, then the first
    return weights, max((one for one in found if one[1] >= best - 0.02), key=lambda one: one[:2])[2]


def edited(value, interval, operator, mean, rest):
    """What becomes of a value that lies in an interval of its neuron. mean, rest: of the concept's and the others' rows."""
    name, _, number = operator.partition(":")
    lower, upper = interval
    if name == "zero":
        return 0.0
    if name == "complement_mean":
        return float(rest)
    if name == "steer":
        return value + float(number) * float(mean - rest)
    if not math.isfinite(upper - lower):
        return 0.0
    return float(value * 0.125 * abs(value - (lower + upper) / 2) / ((upper - lower) / 2))


def masking(ranges, gate, operator, mean, rest):
    """token [D] -> what it becomes, how many neurons were changed, how many were looked at."""

    def change(token):
        new, changed = token.copy(), 0
        if gate is None or (np.array(evidence(token, ranges, gate[0])) >= gate[1]).all():
            for neuron, intervals in ranges.items():
                for interval in intervals:
                    if holds([interval], token[neuron]):
                        new[neuron] = edited(float(token[neuron]), interval, operator, mean[neuron], rest[neuron])
                changed += holds(intervals, token[neuron])
        return new, changed, len(ranges)

    return change


def erasure(pooled, concept):
    """token [D] -> the same after LEACE (Belrose et al. 2023, theorem 4.3): whiten, project, undo. pooled: concept -> [n, D]."""
    rows = np.concatenate(list(pooled.values())).astype(np.float64)
    labels = np.concatenate([np.full(len(values), float(name == concept)) for name, values in pooled.items()])
    mean = rows.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov(rows.T, ddof=0))
    kept = spread > 1e-12 * spread.max()
    axes, root = axes[:, kept], np.sqrt(spread[kept])
    whiten, undo = axes @ np.diag(1 / root) @ axes.T, axes @ np.diag(root) @ axes.T
    along = whiten @ ((rows - mean).T @ (labels - labels.mean()) / len(rows))
    remove = undo @ np.outer(along, along) @ whiten / (along @ along)

    def change(token):
        return (token - remove @ (token - mean)).astype(np.float32), len(token), len(token)

    return change


def logits_under_edit(model, family, layer, component, ids, change_of, positions):
    """Logits of one row with the edit, how many activations it changed, and how many it looked at. positions: all or pooled."""
    changed, looked_at = 0, 0

    def change(hidden):
        nonlocal changed, looked_at
        changed, looked_at, new = 0, 0, hidden.clone()
        for place in range(len(ids)) if positions == "all" else [deciding(family, ids)]:
            token, more, out_of = change_of(hidden[0, place].numpy())
            new[0, place] = torch.from_numpy(token)
            changed, looked_at = changed + more, looked_at + out_of
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


def greedy(model, ids, steps, stops):
    """Likeliest tokens behind a row, one whole forward pass for each of them, up to a token of `stops`."""
    found = []
    while len(found) < steps:
        token = int(logits_of(model, [*ids, *found])[-1].argmax())
        if token in stops:
            break
        found.append(token)
    return found


def nll(logits, ids):
    """Sum of the token losses of a document."""
    return float(-torch.log_softmax(logits[:-1], dim=-1)[range(len(ids) - 1), ids[1:]].double().sum())


def audit(
    model, family, layer, component, rows, ids, documents, ordinary, methods, *, positions, scoring
) -> list[dict[str, Any]]:
    """Every method on every concept.

    Args:
        rows: (token ids, concept, split) of each row.
        ids: concept -> class or first token of its label.
        documents: token ids of ordinary texts, for perplexity; none for classifiers.
        ordinary: token ids of texts on whose tokens no range should fire.
        methods: (concept, saliency, top, kind, tau, threshold, gate, operator); the kind `leace` looks at nothing but the concept.
    """
    site = (model, family, layer, component)
    fit = {concept: [t for t, own, split in rows if (own, split) == (concept, "fit")] for concept in ids}
    pooled = {concept: np.stack([activations(*site, tokens) for tokens in fit[concept]]) for concept in ids}
    running = np.concatenate([everywhere(*site, tokens) for tokens in ordinary])
    test = [(tokens, concept) for tokens, concept, split in rows if split == "test"]
    plain = [answer(logits_of(model, tokens)[-1], ids, scoring, own) for tokens, own in test]
    plain_losses = [nll(logits_of(model, tokens), tokens) for tokens in documents]
    predicted = sum(len(tokens) - 1 for tokens in documents)
    results = []
    for concept, saliency, top, kind, tau, threshold, gated, operator in methods:
        found: dict[str, Any] = {}
        if kind == "leace":
            change = erasure(pooled, concept)
        else:
            rest = np.concatenate([values for name, values in pooled.items() if name != concept])
            neurons, groups = select(pooled[concept], rest, saliency, top), (pooled[concept], rest, running)
            ranges = bounds(groups, neurons, kind, tau, threshold)
            gate = agreement(groups, ranges) if gated == "agreement" else None
            means = (group.astype(np.float64).mean(axis=0) for group in groups[:2])
            change = masking(ranges, gate, operator, *means)
            found = {"neurons": neurons, "bounds": list(ranges.values()), "gate": gate and gate[1]}
        passes = [logits_under_edit(*site, tokens, change, positions) for tokens, _ in test]
        after = [answer(out[0][-1], ids, scoring, own) for out, (_, own) in zip(passes, test, strict=True)]
        for group in ("target", "complement"):
            members = [i for i, (_, own) in enumerate(test) if (own == concept) == (group == "target")]
            for at, measure in enumerate(("accuracy", "confidence")):
                found[f"base_{group}_{measure}"] = float(np.mean([plain[i][at] for i in members]))
                found[f"{group}_{measure}"] = float(np.mean([after[i][at] for i in members]))
            found[f"dose_{group}"] = sum(passes[i][1] for i in members) / sum(passes[i][2] for i in members)
        if documents:
            losses = [nll(logits_under_edit(*site, tokens, change, positions)[0], tokens) for tokens in documents]
            found["perplexity"], found["base_perplexity"] = (
                math.exp(sum(part) / predicted) for part in (losses, plain_losses)
            )
        results.append(found)
    return results
