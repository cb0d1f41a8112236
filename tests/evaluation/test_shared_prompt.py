"""Rows that begin alike give, run behind a prompt that was run once, what they give alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.activations.batching import collate
from neuronlens.activations.readout import deciding_logits
from neuronlens.evaluation import shared_prompt
from neuronlens.evaluation.deciding import deciding_passes
from neuronlens.evaluation.shared_prompt import SharedPrompt, shared_tokens
from neuronlens.interventions.edit import edit
from tests import reference
from tests.conftest import hooks, sentences
from tests.evaluation.edits import SITES, erasing, gated, half
from tests.models import CLASSIFIERS, LANGUAGE_MODELS, LAYERS

BEGINNING = "the court : law the bank : finance the goal : sports the cell : science the"


def few_shot(checkpoint, rows=5):
    """Ragged rows behind the same examples."""
    return checkpoint.tokenizer([f"{BEGINNING} {text}" for text in sentences(rows)])["input_ids"]


def batch_of(encoded):
    return collate(encoded, np.arange(len(encoded)), pad_id=0, device="cpu")


@torch.inference_mode()
@pytest.mark.parametrize("room", [0, 1 << 30])
@pytest.mark.parametrize("positions", ["all", "pooled", "last", "prompt"])
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_every_edit_has_the_logits_and_the_dose_of_whole_rows(checkpoints, family, positions, room):
    checkpoint = checkpoints(family)
    model, encoded = checkpoint.model, few_shot(checkpoint)
    edits = [half(model.config, site, operator, positions) for site in SITES for operator in ("zero", "dampen")]
    edits += [gated(half(model.config, SITES[0], positions=positions)), erasing(model.config, SITES[2], positions)]
    shared = SharedPrompt.of_rows(model, encoded, edits, room)
    assert shared.length >= 16
    for batch in (batch_of(encoded), batch_of(encoded[1:3])):
        plain, moved = deciding_logits(model, batch), 0
        found = {index: (logits, dose) for index, logits, dose in deciding_passes(model, edits, batch, shared=shared)}
        torch.testing.assert_close(found.pop(0)[0], plain, rtol=0, atol=2e-6)
        assert sorted(found) == list(range(1, len(edits) + 1))
        for index, (logits, dose) in found.items():
            with edit(model, edits[index - 1]) as (whole,):
                full = deciding_logits(model, batch)
            torch.testing.assert_close(logits, full, rtol=0, atol=5e-6)
            assert torch.equal(dose.changed, whole.changed), edits[index - 1].site
            assert torch.equal(dose.looked_at, whole.looked_at)
            moved += not torch.allclose(logits, plain, atol=1e-4)
        assert moved > len(edits) / 2
    assert hooks(model) == 0


@torch.inference_mode()
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_what_is_pooled_may_stand_in_the_shared_part(checkpoints, pooling):
    checkpoint = checkpoints("llama")
    model, encoded = checkpoint.model, few_shot(checkpoint)
    item = half(model.config, SITES[0], positions="pooled")
    item = type(item)(**{**item.__dict__, "pooling": pooling})
    batch = batch_of(encoded)
    *_, (_, logits, dose) = deciding_passes(
        model, [item], batch, shared=SharedPrompt.of_rows(model, encoded, [item], 1 << 30)
    )
    with edit(model, item) as (whole,):
        full = deciding_logits(model, batch)
    torch.testing.assert_close(logits, full, rtol=0, atol=5e-6)
    assert torch.equal(dose.changed, whole.changed)
    assert int(whole.changed.sum()) > 0


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_the_shared_tokens_are_run_once_for_each_edit(checkpoints, family):
    checkpoint = checkpoints(family)
    model, encoded = checkpoint.model, few_shot(checkpoint, rows=6)
    edits = [half(model.config, SITES[0], operator) for operator in ("zero", "dampen", "mean")]
    widths: list[int] = []
    block = model.get_submodule(reference.BLOCKS[family])[LAYERS - 2]
    handle = block.get_submodule(reference.DOWN[family]).register_forward_hook(
        lambda _, __, out: widths.append(out.shape[:-1].numel())
    )
    shared = SharedPrompt.of_rows(model, encoded, edits, 1 << 30)
    for rows in (slice(0, 3), slice(3, 6)):
        batch = batch_of(encoded[rows])
        for _ in deciding_passes(model, edits, batch, shared=shared):
            pass
    handle.remove()
    own = [3 * (max(map(len, encoded[rows])) - shared.length) for rows in (slice(0, 3), slice(3, 6))]
    whole = [3 * max(map(len, encoded[rows])) for rows in (slice(0, 3), slice(3, 6))]
    assert sorted(widths) == sorted([shared.length] * 4 + own * 3 + whole)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_encoders_share_nothing(checkpoints, family):
    checkpoint = checkpoints(family)
    assert SharedPrompt.of_rows(checkpoint.model, few_shot(checkpoint), [], 0) is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_causal_classifier_shares_nothing(checkpoints, family):
    checkpoint = checkpoints(family, head="classifier")
    assert SharedPrompt.of_rows(checkpoint.model, few_shot(checkpoint), [], 0) is None


@torch.inference_mode()
def test_what_there_is_room_for_is_held_and_what_is_beyond_is_run_anew(checkpoints, monkeypatch):
    checkpoint = checkpoints("llama")
    model, encoded = checkpoint.model, few_shot(checkpoint, rows=4)
    edits = [half(model.config, SITES[0], operator) for operator in ("zero", "dampen")]
    runs: list[int] = []
    run = SharedPrompt._run
    monkeypatch.setattr(SharedPrompt, "_run", lambda self: runs.append(0) or run(self))
    prompt = SharedPrompt.of_rows(model, encoded, edits, 0)
    of_block = sum(part.nbytes for part in prompt._unedited[0])
    behind = LAYERS - 1 - SITES[0].layer
    for room, expected in ((of_block * behind - 1, 5), (of_block * behind, 4), (2 * of_block * behind, 3)):
        runs.clear()
        shared = SharedPrompt.of_rows(model, encoded, edits, room)
        for some in (encoded[:2], encoded[2:]):
            assert len([*deciding_passes(model, edits, batch_of(some), shared=shared)]) == 3
        assert len(runs) == expected, "unedited, and each edit for one batch or for both"


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([[1] * 20 + [2], [1] * 20 + [3]], 20),
        ([[1] * 20, [1] * 20 + [3]], 19),  # each row has a token of its own
        ([[1] * 16 + [2], [1] * 16 + [3]], 16),
        ([[1] * 15 + [2], [1] * 15 + [3]], 0),
        ([[1] * 20 + [2]], 0),
        ([[1] * 16 + [0] * 9, [1] * 30, [1] * 30 + [2]], 16),
        ([[1] * 30, [1] * 29 + [2], [1] * 17 + [3] * 20], 17),
        ([[1] * 30 + [2] * 270, [1] * 30 + [3] * 270], 30),  # a tenth of a row is worth it
        ([[1] * 29 + [2] * 271, [1] * 29 + [3] * 271], 0),
    ],
)
def test_as_much_is_shared_as_all_rows_begin_with_where_that_is_worth_it(rows, count):
    assert shared_tokens(rows) == [1] * count


rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=6)


@given(rows, st.lists(st.integers(0, 2), max_size=40))
def test_what_rows_share(given_rows, beginning):
    encoded = [[*beginning, *row] for row in given_rows]
    found = shared_tokens(encoded)
    count = len(found)
    assert all(row[:count] == found and len(row) > count for row in encoded)
    if count:
        mean = sum(map(len, encoded)) / len(encoded)
        assert count >= max(shared_prompt._LEAST_TOKENS, shared_prompt._LEAST_SHARE * mean)
    elif len(encoded) > 1:
        room = min(min(map(len, encoded)) - 1, len(beginning))
        assert room < max(shared_prompt._LEAST_TOKENS, shared_prompt._LEAST_SHARE * max(map(len, encoded)))
