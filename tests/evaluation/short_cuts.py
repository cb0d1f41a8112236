"""Short cuts to what decides a row, held against whole passes."""

from __future__ import annotations

import numpy as np
import torch

from neuronlens.activations.batching import collate
from neuronlens.activations.readout import deciding_logits
from neuronlens.evaluation.deciding import deciding_passes
from neuronlens.interventions.edit import edit
from tests.conftest import hooks, sentences


def ragged(checkpoint, side="right", rows=5):
    """A batch of texts of different length."""
    encoded = checkpoint.tokenizer(sentences(rows))["input_ids"]
    return collate(encoded, np.arange(rows), pad_id=0, device="cpu", side=side)


def logits_like_those_of_whole_passes(model, edits, batch):
    """Logits of the unedited model and of each edit by short cuts, after they and the doses have been compared."""
    found = {index: (logits, dose) for index, logits, dose in deciding_passes(model, edits, batch)}
    assert sorted(found) == list(range(len(edits) + 1))
    for index, item in enumerate(edits, start=1):
        logits, dose = found[index]
        with edit(model, item) as (whole,):
            full = deciding_logits(model, batch)
        torch.testing.assert_close(logits, full, rtol=0, atol=2e-6)
        assert torch.equal(dose.changed, whole.changed)
        assert torch.equal(dose.looked_at, whole.looked_at)
    assert hooks(model) == 0
    return [found[index][0] for index in range(len(edits) + 1)]
