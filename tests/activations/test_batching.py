"""Batches hold every row once, keep to the budget, and pad without a trace."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.activations.batching import (
    Halving,
    collate,
    iterate,
    pad_id_of,
    split_batches,
    token_budget_batches,
)
from neuronlens.errors import OutOfMemoryError


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_every_row_once_within_the_budget_shortest_first(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    rows = np.concatenate(batches).tolist()
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    for batch in batches:
        padded = len(batch) * max(lengths[int(row)] for row in batch)
        assert padded <= budget or len(batch) == 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=9), st.sampled_from([31, 64, 100, 320]))
def test_no_other_batches_of_the_sorted_rows_hold_fewer_tokens(lengths, budget):
    ordered = sorted(lengths)

    def tokens(cuts):
        parts = [ordered[one:two] for one, two in itertools.pairwise([0, *cuts, len(ordered)])]
        sizes = [len(part) * part[-1] for part in parts]
        fits = all(size <= budget or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
        return sum(sizes) + budget // 32 * len(parts) if fits else np.inf

    inner = range(1, len(lengths))
    every = (cuts for count in range(len(lengths)) for cuts in itertools.combinations(inner, count))
    found = np.cumsum([len(batch) for batch in token_budget_batches(lengths, budget)])[:-1].tolist()
    assert tokens(found) == min(map(tokens, every))


@pytest.mark.parametrize("count", [1, 5, 300])
def test_rows_of_one_length_fill_their_batches(count):
    sizes = [len(batch) for batch in token_budget_batches([128] * count, 1024)]
    assert sorted(sizes) == [count % 8] + [8] * (count // 8)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["test", "fit", "validation"])), min_size=1, max_size=40),
    st.integers(1, 200),
)
def test_the_batches_of_a_split_are_those_of_its_rows_alone(rows, budget):
    lengths, split = [length for length, _ in rows], [name for _, name in rows]
    found = split_batches(lengths, split, budget)
    assert list(found) == [name for name in ("fit", "validation", "test") if name in split]
    for name, batches in found.items():
        places = np.array([i for i, own in enumerate(split) if own == name])
        alone = token_budget_batches([lengths[i] for i in places], budget)
        assert [batch.tolist() for batch in batches] == [places[rows].tolist() for rows in alone]


def test_equal_lengths_keep_their_order():
    assert [batch.tolist() for batch in token_budget_batches([3, 1, 3, 1, 3], 6)] == [[1, 3], [0], [2, 4]]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=6),
    st.sampled_from(["left", "right"]),
)
def test_the_mask_gives_back_the_rows(encoded, side):
    batch = collate(encoded, np.arange(len(encoded)), pad_id=0, device="cpu", side=side)
    assert batch.input_ids.shape == batch.attention_mask.shape == (len(encoded), max(map(len, encoded)))
    for row, tokens in enumerate(encoded):
        real = batch.attention_mask[row].bool()
        assert batch.input_ids[row][real].tolist() == tokens
        assert batch.position_ids[row][real].tolist() == list(range(len(tokens)))
        assert batch.attention_mask[row, 0 if side == "right" else -1] == 1


def test_iterate_yields_the_batches_in_order():
    encoded = [[1], [2, 2], [3]]
    batches = token_budget_batches([1, 2, 1], 2)
    found = [batch.input_ids.tolist() for batch in iterate(encoded, batches, pad_id=0, device="cpu")]
    assert found == [[[1], [3]], [[2, 2]]]


@pytest.mark.parametrize(("pad", "eos", "expected"), [(7, 3, 7), (None, 3, 3), (0, 3, 0), (None, None, 0)])
def test_any_token_will_do_for_padding(pad, eos, expected):
    tokenizer = type("Tokenizer", (), {"pad_token_id": pad, "eos_token_id": eos})()
    assert pad_id_of(tokenizer) == expected


def batches_of(lengths, budget, side="right"):
    """Padded rows of the token 1 + their index."""
    encoded = [[1 + i] * length for i, length in enumerate(lengths)]
    return [collate(encoded, rows, pad_id=0, device="cpu", side=side) for rows in token_budget_batches(lengths, budget)]


def within(room, error=torch.OutOfMemoryError, tried=None):
    """Work that fails on more than `room` tokens, padding included, and tells the rows of a batch."""

    def work(batch):
        if tried is not None:
            tried.append(batch.input_ids.numel())
        if batch.input_ids.numel() > room:
            raise error("CUDA out of memory" if error is not RuntimeError else MESSAGE)
        return batch.input_ids.max(dim=1).values.sub(1).tolist()

    return work


MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=30),
    st.integers(1, 300),
    st.integers(20, 100),
    st.sampled_from([torch.OutOfMemoryError, RuntimeError, MemoryError]),
    st.sampled_from(["left", "right"]),
)
def test_no_row_is_lost_or_run_twice_where_memory_runs_out(lengths, budget, room, error, side):
    halving, work = Halving(), within(room, error)
    for batch in batches_of(lengths, budget, side):
        before = halving.count
        parts = [*halving.run(batch, work)]
        assert [row for _, rows in parts for row in rows] == batch.rows.tolist()
        assert halving.count - before == len(parts) - 1
        for part, rows in parts:
            assert part.rows.tolist() == rows
            assert part.input_ids.numel() <= room
            assert part.input_ids.shape[1] == max(lengths[row] for row in rows), "padded to the longest of the part"
            mask = part.attention_mask.bool()
            assert mask.sum(dim=1).tolist() == [lengths[row] for row in rows]
            assert part.input_ids[mask].tolist() == [row + 1 for row in rows for _ in range(lengths[row])]
            assert part.position_ids[mask].tolist() == [at for row in rows for at in range(lengths[row])]


def test_a_batch_that_fits_is_run_as_it_is():
    halving = Halving()
    [batch] = batches_of([3, 3], 6)
    [(part, _)] = halving.run(batch, within(6))
    assert part is batch
    assert halving.count == 0


def test_what_did_not_fit_is_not_tried_again():
    halving, tried = Halving(), []
    for batch in batches_of([5] * 8 * 4, 40):
        [*halving.run(batch, within(10, tried=tried))]
    assert tried == [40, 20, 10, 10, 10, 10] + [10] * 12
    assert halving.count == 4 * 3


def test_the_parts_are_the_same_for_the_same_failures():
    found = []
    for _ in range(2):
        halving = Halving()
        runs = [halving.run(batch, within(30)) for batch in batches_of([*range(1, 25)], 90)]
        found.append([part.rows.tolist() for run in runs for part, _ in run])
    assert found[0] == found[1]


def test_a_single_row_that_does_not_fit_is_told_with_its_cure():
    [batch] = batches_of([3, 9], 320)
    parts = Halving().run(batch, within(5))
    assert next(parts)[1] == [0]
    with pytest.raises(
        OutOfMemoryError, match=r"^a row of 9 tokens does not fit.*lower dataset\.max_tokens.*\Z"
    ) as error:
        next(parts)
    assert "\n" not in str(error.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    [batch] = batches_of([9, 9], 18)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        next(Halving().run(batch, broken))


def test_the_failed_call_is_let_go_before_the_next(monkeypatch):
    """Its traceback would hold the tensors that did not fit."""
    alive, seen = [], []

    class Tensors:
        def __init__(self):
            alive.append(self)

        def __del__(self):
            seen.append("freed")

    def work(batch):
        held = Tensors()
        alive.clear()
        seen.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        del held

    [batch] = batches_of([1, 1], 2)
    [*Halving().run(batch, work)]
    assert seen == [2, "freed", 1, "freed", 1, "freed"]
