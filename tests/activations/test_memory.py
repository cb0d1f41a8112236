"""How much memory there is, and what follows for batches."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from neuronlens.activations import memory
from neuronlens.activations.memory import CPU_TOKENS, MOST_TOKENS, available_memory, batch_budget, cuda_tokens


def test_a_number_is_taken_as_it_is_and_auto_suits_the_device(checkpoints):
    model = checkpoints("gpt2").model
    assert batch_budget(37, model) == 37
    assert batch_budget("auto", model) == CPU_TOKENS


@pytest.mark.parametrize("gibibytes", [1, 8, 80])
def test_a_card_takes_what_fits_into_a_quarter_of_what_the_weights_leave(checkpoints, monkeypatch, gibibytes):
    model = checkpoints("gpt2").model
    card = SimpleNamespace(total_memory=gibibytes << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    found = batch_budget("auto", model)
    assert found == MOST_TOKENS, "a tiny model is bounded by the cap"
    monkeypatch.setattr(memory, "MOST_TOKENS", 1 << 60)
    found = batch_budget("auto", model)
    weights = sum(weight.nbytes for weight in model.parameters())
    token = 4 * (8 * model.config.n_embd + 4 * model.config.n_inner)
    quarter = ((gibibytes << 30) - weights) / 4
    assert found & (found - 1) == 0, "a power of two"
    assert found * token <= quarter < 2 * found * token


@pytest.mark.parametrize("left", [-5, 0, 1])
def test_a_full_card_is_still_given_a_batch(left):
    assert cuda_tokens(left, 1000) == 1


@pytest.fixture
def machine(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    return tmp_path


def limit(folder, most, used):
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


@pytest.mark.parametrize(
    ("most", "used", "expected"), [(600, 200, 400), (9000, 0, 1000), ("max", 200, 1000), (600, 700, 0)]
)
def test_a_containers_limit_counts(machine, most, used, expected):
    assert available_memory() == 1000
    limit(machine, most, used)
    assert available_memory() == expected


def test_the_system_is_asked_where_psutil_is_missing(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_memory() == 7 * 4096

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(memory.os, "sysconf", unknown)
    assert available_memory() == 0
