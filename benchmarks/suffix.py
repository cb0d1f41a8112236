"""What many edits cost beside full forward passes with each of them, on GPT-2-small's and BERT-base's configs with random weights.

The full passes are good ones: rows packed, the head on one position of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from unittest.mock import patch

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmarks.extraction import batches
from benchmarks.measure import APART, Ratio, interleave
from neuronlens.activations.batching import Batch, collate
from neuronlens.activations.readout import deciding_logits, has_vocabulary
from neuronlens.evaluation import deciding
from neuronlens.evaluation.deciding import Unedited, deciding_passes
from neuronlens.evaluation.shared_prompt import SharedPrompt
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Intervention
from neuronlens.interventions.operators import Target
from neuronlens.sites import Site, layer_count, site_width

CONCEPTS, OPERATORS, TAUS = 14, ("zero", "mean", "dampen", "clamp"), (1.0, 2.0, 2.5)
SHARE = 0.3
BATCHES = 2
COMPONENTS = ("resid_post", "mlp_post")  # of the others edits start like those of mlp_post, or run the whole block
SHARED, OWN = 256, 64  # tokens of a few-shot prompt, and of each row behind it


def run() -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    for name, model in (
        ("GPT-2 small", GPT2LMHeadModel(GPT2Config())),
        ("BERT base", BertForSequenceClassification(BertConfig())),
    ):
        model.eval()
        count = CONCEPTS * len(OPERATORS) * len(TAUS)
        with torch.inference_mode():
            yield f"{name}: {count} edits, over as many full forward passes", sweeps(model, batches(model, BATCHES))
            if has_vocabulary(model):
                title = (
                    f"{name}: an edit of rows behind {SHARED} shared tokens, {OWN} of their own, over rows run whole"
                )
                yield title, shared_prompts(model)


def sweeps(model: PreTrainedModel, rows: list[Batch], rounds: int = 8) -> list[Ratio]:
    """All edits at the first, middle and last block, the unedited pass included.

    Behind the last attention all of them are run, and a few full passes are. Elsewhere each costs the same, so three are measured.
    """
    layers = layer_count(model.config)
    found = []
    for layer in (0, layers // 2, layers - 1):
        for component in COMPONENTS:
            edits = edits_of(model, Site(layer, component))
            measure = _all if layer == layers - 1 else _one
            found += measure(model, rows, edits, rounds)
    return found


def _all(model: PreTrainedModel, rows: list[Batch], edits: list[Intervention], rounds: int) -> list[Ratio]:
    some = edits[:: max(1, len(edits) // 4)]  # full passes take so much longer that a few of them are steady enough

    def full() -> Iterator[None]:
        for batch in rows:
            yield _full(model, some, batch)

    def together(tokens: range | None = None) -> Iterator[None]:
        for batch in rows:
            for _ in deciding_passes(model, edits, batch, tokens=tokens):
                pass
            yield

    site = edits[0].site
    variants: dict[str, Callable[[], object]] = {f"{site}": together}
    if has_vocabulary(model):
        variants[f"{site}, logits of {CONCEPTS} labels"] = lambda: together(range(CONCEPTS))
    share = len(some) / len(edits)
    return [
        Ratio(ratio.name, ratio.median * share, ratio.low * share, ratio.high * share, ratio.seconds)
        for ratio in interleave(full, variants, rounds)
    ]


def _one(model: PreTrainedModel, rows: list[Batch], edits: list[Intervention], rounds: int) -> list[Ratio]:
    some, site = edits[:4], edits[0].site  # the first bears what all share, and is left out
    kept = [Unedited.of(model, edits, batch) for batch in rows]

    def full() -> Iterator[object]:
        for batch in rows:
            yield APART
            yield APART
            for item in some[1:]:
                yield _full(model, [item], batch)

    def resumed() -> Iterator[object]:
        for batch, unedited in zip(rows, kept, strict=True):
            for index, _, _ in deciding_passes(model, some, batch, unedited):
                yield APART if index < 2 else None  # the unedited rows are added below, once for all the edits

    # both sides edit by edit, since the machine's speed drifts within seconds: edits do not wait for each other's head
    with patch.object(deciding, "vectors_together", return_value=1):
        (ratio,) = interleave(full, {str(site): resumed}, rounds)
    return [
        Ratio(ratio.name, *(value + 1 / len(edits) for value in (ratio.median, ratio.low, ratio.high)), ratio.seconds)
    ]


def _full(model: PreTrainedModel, edits: Sequence[Intervention], batch: Batch) -> None:
    for item in edits:
        with edit(model, item):
            deciding_logits(model, batch)


def shared_prompts(
    model: PreTrainedModel, rows: int = 12, shared: int = SHARED, own: int = OWN, rounds: int = 3
) -> list[Ratio]:
    """Edits at the middle block, on both sides by what lies behind it; the shared tokens are run once for the rows of one batch."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.config.vocab_size, (rows, shared + own), generator=generator)
    ids[:, :shared] = ids[0, :shared]
    batch = collate(ids.tolist(), np.arange(rows), pad_id=0, device=model.device)
    site = Site(layer_count(model.config) // 2, "resid_post")
    edits = edits_of(model, site)[:3]
    unedited = Unedited.of(model, edits, batch)
    prompt = SharedPrompt(model, ids[0, :shared].tolist(), edits, 0)

    def once(given: SharedPrompt | None = None) -> torch.Tensor:
        return torch.stack([logits for _, logits, _ in deciding_passes(model, edits, batch, unedited, shared=given)])

    torch.testing.assert_close(once(prompt), once(), rtol=0, atol=1e-5)
    return interleave(once, {str(site): lambda: once(prompt)}, rounds)


def edits_of(model: PreTrainedModel, site: Site) -> list[Intervention]:
    """An edit for every concept, operator and width, of three tenths of the site's neurons."""
    generator = torch.Generator().manual_seed(0)
    width = site_width(model.config, site)
    found = []
    for _ in range(CONCEPTS):
        neurons = torch.randperm(width, generator=generator)[: int(SHARE * width)].sort().values
        mean = 0.1 * torch.randn(len(neurons), generator=generator)
        std = torch.full_like(mean, 0.5)
        for operator in OPERATORS:
            for tau in TAUS:
                lower, upper = mean - tau * std, mean + tau * std
                target = Target(lower, upper, mean, std, -mean, std, 0 * mean)
                found.append(Intervention(site, neurons, lower[:, None], upper[:, None], target, operator))
    return found
