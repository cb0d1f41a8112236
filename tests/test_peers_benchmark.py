"""The benchmark of other tools: all are given the same tensors and are compared with the same values, and a failure is told, not hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.peers import __main__ as peers
from benchmarks.peers.adapters import ADAPTERS
from benchmarks.peers.compare import captured, hooked
from benchmarks.peers.environments import RELEASES, InstallError
from benchmarks.peers.workload import Padded, Workload
from neuronlens.activations.batching import collate
from tests.models import HIDDEN, LAYERS, random_model

BATCHES = [[[5, 6, 7], [8, 9]], [[10, 11, 12, 13, 14]]]


@pytest.mark.parametrize("rows", BATCHES)
def test_a_batch_is_neuronlens_own(rows):
    padded = Padded.of(rows)
    own = collate(rows, np.arange(len(rows)), pad_id=0, device="cpu")
    real = own.attention_mask.bool()
    assert padded.inputs["input_ids"].equal(own.input_ids)
    assert padded.inputs["attention_mask"].equal(own.attention_mask)
    assert padded.inputs["position_ids"][real].equal(own.position_ids[real])
    assert padded.last.tolist() == [len(row) - 1 for row in rows]


@torch.inference_mode()
def test_what_is_compared_is_the_last_token_behind_every_block(tmp_path):
    work = Workload(tmp_path, BATCHES, [Padded.of(rows) for rows in BATCHES], 1)
    body = random_model("gpt2").transformer
    values = hooked(body, work)
    assert values.shape == (LAYERS, 3, HIDDEN)
    assert captured(body, work).equal(values)
    for at, ids in enumerate(row for rows in BATCHES for row in rows):
        states = body(torch.tensor([ids]), output_hidden_states=True).hidden_states
        # the last of the hidden states is behind the final norm, which is no block's output
        for layer in range(LAYERS - 1):
            torch.testing.assert_close(values[layer, at], states[layer + 1][0, -1])
        torch.testing.assert_close(body.ln_f(values[-1, at]), states[-1][0, -1])


def test_a_release_that_does_not_install_is_reported(monkeypatch, tmp_path, capsys):
    def refuse(name, home):
        raise InstallError(f"there is no {name}")

    monkeypatch.setattr(peers, "environment", refuse)
    for name in ADAPTERS:
        found = peers.run(name, [tmp_path])
        assert found == {"peer": name, "version": RELEASES[name], "note": f"does not install: there is no {name}"}
        peers.show(found)
        assert f"{name} {RELEASES[name]}: does not install" in capsys.readouterr().out
