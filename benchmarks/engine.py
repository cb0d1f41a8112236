"""What reading and editing cost beside a plain forward pass, on GPT-2-small's and BERT-base's configs with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmarks.measure import Ratio, interleave
from benchmarks.profile import rows_of
from neuronlens.activations.batching import collate, token_budget_batches
from neuronlens.activations.capture import capture
from neuronlens.activations.hidden import record_blocks
from neuronlens.activations.readout import deciding_logits
from neuronlens.evaluation.suffix import resume_after, resumed_passes, run_unedited
from neuronlens.interventions.edit import Intervention, edit
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
            yield f"{name}: one edit, over a full forward pass with the same edit", suffix(model)


def batches(model: PreTrainedModel) -> list[object]:
    """Rows of realistic lengths, sorted and packed."""
    encoded = rows_of(ROWS)
    packed = token_budget_batches([len(ids) for ids in encoded], BATCH_TOKENS)
    return [collate(encoded, rows, pad_id=0, device=model.device) for rows in packed]


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


def suffix(model: PreTrainedModel) -> list[Ratio]:
    """An edit that starts from kept hidden states, at the first, middle and last block."""
    batch = batches(model)[-1]
    found = []
    for layer in (0, 6, 11):
        item = _edit(Site(layer, "resid_post"))
        with record_blocks(model, [layer + 1]) as outputs:
            deciding_logits(model, batch)

        def full(item: Intervention = item) -> torch.Tensor:
            with edit(model, item):
                return deciding_logits(model, batch)

        def resumed(
            item: Intervention = item, outputs: dict[int, object] = outputs, layer: int = layer
        ) -> torch.Tensor:
            with resume_after(model, layer + 1, outputs[layer + 1]), edit(model, item):
                return deciding_logits(model, batch)

        assert torch.equal(full(), resumed())
        name: str = f"suffix at block {layer}"
        variants: dict[str, Callable[[], object]] = {name: resumed}
        found += interleave(full, variants)
    sweep = [_edit(Site(6, "resid_post")) for _ in range(8)]

    def fulls() -> None:
        deciding_logits(model, batch)
        for item in sweep:
            with edit(model, item):
                deciding_logits(model, batch)

    def resumes() -> None:
        _, _, kept = run_unedited(model, sweep, lambda: deciding_logits(model, batch))
        for _ in resumed_passes(model, sweep, kept, lambda: deciding_logits(model, batch)):
            pass

    return found + interleave(fulls, {"unedited pass and 8 edits at block 6": resumes}, rounds=3)


def _edit(site: Site) -> Intervention:
    neurons = torch.arange(0, 768, 3)
    return Intervention(site, neurons, torch.full((256, 1), -1.0), torch.full((256, 1), 1.0))
