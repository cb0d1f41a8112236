"""Models spread over devices, and values that travel while the next batch runs."""

from __future__ import annotations

import contextlib

import accelerate
import numpy as np
import pytest
import torch

from neuronlens import weights as module
from neuronlens.activations import capture as capturing
from neuronlens.activations.capture import Leaving
from neuronlens.activations.extract import collect_activations
from neuronlens.checkpoint import load_checkpoint
from neuronlens.config import Config
from neuronlens.errors import CheckpointError
from neuronlens.evaluation.methods import Method
from neuronlens.evaluation.sweep import evaluate_methods
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.sites import Site, blocks_of
from tests.models import LAYERS

EVERYWHERE = ["resid_post.all", "mlp_post.all"]


def spread(checkpoint, folder):
    """The same checkpoint with two of its blocks on disk, whose weights come into memory while they run."""
    other = load_checkpoint(checkpoint.path)
    path, _ = blocks_of(other.model)
    where = {f"{path}.{layer}": "disk" if layer else "cpu" for layer in range(LAYERS)}
    for name, _ in other.model.named_parameters(remove_duplicate=False):
        if not name.startswith(f"{path}."):
            where[name.rpartition(".")[0]] = "cpu"
    model = accelerate.dispatch_model(other.model, where, main_device="cpu", offload_dir=str(folder), force_hooks=True)
    assert any(weight.is_meta for weight in model.parameters())
    other.__dict__["model"] = model
    return other


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_blocks_that_lie_elsewhere_read_and_are_edited_the_same(checkpoints, dataset, tmp_path, family):
    checkpoint = checkpoints(family)
    apart = spread(checkpoint, tmp_path)
    one, two = (collect_activations(each, dataset, EVERYWHERE) for each in (checkpoint, apart))
    for site, values in one.values.items():
        np.testing.assert_array_equal(values, two.values[site])
    np.testing.assert_array_equal(one.predicted, two.predicted)
    methods = []
    for site in one.sites:
        statistics = fit_statistics(one, site, rows="all")
        methods += [Method(fit_ranges(statistics, statistics.concepts[0], top=0.5, kind="gaussian"))]
    results = [evaluate_methods(each, dataset, methods, Config())[0] for each in (checkpoint, apart)]
    for name in ("target_confidence", "complement_confidence", "dose_target"):
        np.testing.assert_allclose(*(table[name].to_numpy() for table in results), rtol=1e-5, err_msg=name)
    assert all("_hf_hook" in block.__dict__ for block in blocks_of(apart.model)[1]), (
        "short cuts put back what they found"
    )
    again = collect_activations(apart, dataset, EVERYWHERE)
    np.testing.assert_array_equal(again.confidence, two.confidence)


def test_a_device_map_gives_the_same_activations(checkpoints, dataset):
    checkpoint = checkpoints("gpt2")
    mapped = load_checkpoint(checkpoint.path, device_map="auto")
    one, two = (collect_activations(each, dataset, EVERYWHERE) for each in (checkpoint, mapped))
    for site, values in one.values.items():
        np.testing.assert_array_equal(values, two.values[site])


def test_a_device_map_needs_accelerate(checkpoints, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"needs the package accelerate.*neuronlens\[big\]"):
        _ = load_checkpoint(checkpoints("gpt2").path, device_map="auto").model


def test_a_head_that_does_not_fit_is_refused(checkpoints, tmp_path):
    model = load_checkpoint(checkpoints("bert").path).model
    module._check_within_reach(model, tmp_path)
    model.get_input_embeddings().to("meta")
    with pytest.raises(CheckpointError, match="no room for its embeddings"):
        module._check_within_reach(model, tmp_path)


class FakeCard:
    """Stands in for CUDA: copies that are sent off arrive when they are waited for, and not before."""

    def __init__(self):
        self.log = []

    def __call__(self, values):
        host = torch.full_like(values, float("nan")) if values.is_floating_point() else torch.zeros_like(values)
        self.log.append("sent")

        def wait():
            host.copy_(values)
            self.log.append("waited")

        return host, wait


def test_values_are_waited_for_when_the_next_batch_has_run(checkpoints, dataset, monkeypatch):
    checkpoint, card = checkpoints("gpt2"), FakeCard()
    usual = collect_activations(checkpoint, dataset, EVERYWHERE, batch_tokens=40)
    monkeypatch.setattr(capturing, "sent", card)
    monkeypatch.setattr("neuronlens.activations.passes.sent", card)
    ran = checkpoint.model.register_forward_hook(lambda *_: card.log.append("ran"))
    try:
        found = collect_activations(checkpoint, dataset, EVERYWHERE, batch_tokens=40)
    finally:
        ran.remove()
    for site, values in usual.values.items():
        np.testing.assert_array_equal(values, found.values[site])
    np.testing.assert_array_equal(usual.position, found.position)
    runs = [entry for entry in card.log if entry != "sent"]
    assert runs[:3] == ["ran", "ran", "waited"], "the second batch runs before the first is waited for"
    assert card.log.count("sent") == card.log.count("waited")


def test_a_card_copies_on_a_stream_of_its_own_into_pinned_memory(monkeypatch):
    """What is called of CUDA, in its order; there is no card here."""
    log = []

    class Stream:
        def wait_stream(self, other):
            log.append(f"side waits for {other}")

    class Event:
        def record(self, stream):
            log.append("recorded" if stream is side else "recorded elsewhere")

        def synchronize(self):
            log.append("synchronised")

    class OnCard:
        """A tensor that says it lies on a card."""

        shape, dtype, device = (2, 3), torch.float32, torch.device("cuda", 0)

        def record_stream(self, stream):
            log.append("kept for the side" if stream is side else "kept elsewhere")

    class Host:
        def copy_(self, values, non_blocking):
            log.append("copies without waiting" if non_blocking else "waits")

    side = Stream()
    monkeypatch.setattr(capturing, "_side_stream", lambda _: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "the model's")
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(
        torch, "empty", lambda *_, pin_memory, **__: log.append("pinned") or Host() if pin_memory else None
    )
    _, wait = capturing.sent(OnCard())
    assert log == ["side waits for the model's", "pinned", "copies without waiting", "recorded", "kept for the side"]
    wait()
    assert log[-1] == "synchronised"


def test_what_leaves_keeps_its_order_and_its_values():
    sites = [Site(layer, name) for layer in range(2) for name in ("resid_post", "mlp_post")]
    found = {site: torch.randn(3, 4 + 2 * (site.component == "mlp_post"), dtype=torch.bfloat16) for site in sites}
    arrived = Leaving(found).arrived()
    assert list(arrived) == sites
    for site, values in arrived.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, found[site].float().numpy())
