"""What the perplexity of ordinary text costs under edits, on GPT-2-small's config with random weights.

python -c "import torch; torch.set_num_threads(1); from benchmarks.text import run; print(*run(), sep='\\n')"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmarks.measure import Ratio, interleave
from neuronlens.activations.batching import Batch, collate
from neuronlens.evaluation.crossentropy import Change, cross_entropies, token_losses
from neuronlens.evaluation.lmhead import HiddenChange, LinearHead
from neuronlens.evaluation.predictions import Predictions
from neuronlens.evaluation.text import text_losses
from neuronlens.evaluation.unembedding import Unembedding
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Intervention
from neuronlens.interventions.operators import Target
from neuronlens.sites import Site

TOKENS, DOCUMENTS, EDITS, ROUNDS = 128, 8, 8, 3


def run(
    tokens: int = TOKENS, documents: int = DOCUMENTS, edits: int = EDITS, rounds: int = ROUNDS
) -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark, over documents of so many tokens."""
    model = GPT2LMHeadModel(GPT2Config()).eval()
    with torch.inference_mode():
        yield "GPT-2 small: losses by blocks, over whole logits", heads(model, tokens, documents, rounds)
        yield (
            f"GPT-2 small: unedited losses and {edits} edits behind the last block, over the product with all columns",
            columns(model, tokens, documents, edits, rounds),
        )
        yield "GPT-2 small: blocks on packed documents, over one by one", packing(model, tokens, documents, rounds)
        yield (
            f"GPT-2 small: losses of text, unedited and under {edits} edits, over passes through the blocks alone",
            whole(model, tokens, documents, edits, rounds),
        )


def heads(model: PreTrainedModel, tokens: int, documents: int, rounds: int) -> list[Ratio]:
    """From the vectors at the unembedding's entrance; whole logits of one document at a time, as the model itself makes them."""
    unembedding = _unembedding(model)
    normed = torch.randn(documents * (tokens - 1), unembedding.weight.shape[1])
    following = torch.randint(unembedding.vocabulary, (len(normed),))

    def in_one() -> list[torch.Tensor]:
        pairs = zip(normed.split(tokens - 1), following.split(tokens - 1), strict=True)
        return [token_losses(unembedding.linear(vectors), own) for vectors, own in pairs]

    def blocks() -> torch.Tensor:
        return cross_entropies(unembedding, normed, following)[0]

    torch.testing.assert_close(torch.cat(in_one()), blocks())
    return interleave(in_one, {"blocks of the vocabulary": blocks}, rounds)


def columns(model: PreTrainedModel, tokens: int, documents: int, edits: int, rounds: int) -> list[Ratio]:
    """Zeroing as many neurons as a share p of all, others in every edit, or first where they lie in their range and then whole; the other
    side makes every product anew, by blocks of the vocabulary as well."""
    unembedding = _unembedding(model)
    norm, width = model.transformer.ln_f, unembedding.weight.shape[1]
    hidden = torch.randn(documents * (tokens - 1), width)
    following = torch.randint(unembedding.vocabulary, (len(hidden),))
    normed, everywhere = norm(hidden), torch.arange(len(hidden))
    where = torch.ones(documents, tokens, dtype=torch.bool)
    where[:, -1] = False
    predictions = Predictions(where, following, torch.arange(documents).repeat_interleave(tokens - 1))
    head = LinearHead(model, _collate(_documents(model, tokens, documents)), predictions, unembedding)
    found = []
    for name, share, of_each in (
        ("columns of 30% of the neurons", 0.3, (torch.inf,)),
        ("columns of 5% of the neurons", 0.05, (torch.inf,)),
        ("half of them the same within ranges of 2.5 standard deviations", 0.3, (2.5, torch.inf)),
    ):
        changes = []
        for _ in range(edits // len(of_each)):
            neurons = torch.zeros(width, dtype=torch.bool)
            neurons[torch.randperm(width)[: int(share * width)]] = True
            for bound in of_each:
                touched = neurons & (hidden.abs() <= bound)
                changes.append(HiddenChange(everywhere, hidden.masked_fill(touched, 0)[:, None], touched, hidden))

        def anew(changes: Sequence[HiddenChange] = tuple(changes)) -> list[torch.Tensor]:
            vectors = [norm(change.hidden[:, 0]) for change in changes]
            return cross_entropies(unembedding, normed, following, [Change(everywhere, after) for after in vectors])

        def updated(changes: Sequence[HiddenChange] = tuple(changes)) -> list[torch.Tensor]:
            return head.losses(normed, changes)

        for direct, update in zip(anew(), updated(), strict=True):
            torch.testing.assert_close(direct, update, rtol=3e-6, atol=0)
        found += interleave(anew, {name: updated}, rounds)
    return found


def packing(model: PreTrainedModel, tokens: int, documents: int, rounds: int) -> list[Ratio]:
    """The blocks and the final norm, without the head."""
    encoded = _documents(model, tokens, documents)
    singles = [_collate([ids]) for ids in encoded]
    variants: dict[str, Callable[[], object]] = {}
    for size in (2, 4, documents):
        batches = [_collate(encoded[start : start + size]) for start in range(0, documents, size)]
        variants[f"{size} in a batch"] = lambda batches=batches: _blocks(model, batches)
    return interleave(lambda: _blocks(model, singles), variants, rounds)


def whole(model: PreTrainedModel, tokens: int, documents: int, edits: int, rounds: int) -> list[Ratio]:
    """All that `document_losses` does with a batch, and the same by whole passes with the edit's hooks."""
    encoded = _documents(model, tokens, documents)
    batch = _collate(encoded)
    singles = [_collate([ids]) for ids in encoded]
    variants: dict[str, Callable[[], object]] = {}
    for name, site in (("last", Site(11, "resid_post")), ("middle", Site(6, "resid_post"))):
        sweep = [_edit(site, seed) for seed in range(edits)]

        def short(sweep: Sequence[Intervention] = sweep) -> dict[int, torch.Tensor]:
            return dict(text_losses(model, sweep, batch))

        def long(sweep: Sequence[Intervention] = sweep) -> list[torch.Tensor]:
            found = [_passes(model, singles)]
            for item in sweep:
                with edit(model, item):
                    found.append(_passes(model, singles))
            return found

        variants |= {f"{name} block": short, f"{name} block, by whole passes": long}
    return interleave(lambda: _blocks(model, [batch]), variants, rounds)


def _unembedding(model: PreTrainedModel) -> Unembedding:
    found = Unembedding.of(model)
    assert found is not None
    return found


def _documents(model: PreTrainedModel, tokens: int, documents: int) -> list[list[int]]:
    return np.random.default_rng(0).integers(model.config.vocab_size, size=(documents, tokens)).tolist()


def _collate(encoded: Sequence[Sequence[int]]) -> Batch:
    return collate(encoded, np.arange(len(encoded)), pad_id=0, device="cpu")


def _blocks(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    for batch in batches:
        model.base_model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )


def _passes(model: PreTrainedModel, batches: Sequence[Batch]) -> torch.Tensor:
    found = []
    for batch in batches:
        logits = model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits[0, :-1]
        found.append(torch.nn.functional.cross_entropy(logits, batch.input_ids[0, 1:], reduction="sum"))
    return torch.stack(found)


def _edit(site: Site, seed: int) -> Intervention:
    neurons = torch.randperm(768, generator=torch.Generator().manual_seed(seed))[:230]
    bounds = torch.full((len(neurons), 1), 1.0)
    return Intervention(site, neurons, -bounds, bounds, Target(*bounds.T.expand(7, -1)))
