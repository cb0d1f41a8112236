"""The unembedding stands for a model's head only where the two give the same logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuronlens.evaluation.unembedding import Unembedding, unembedded_vectors
from tests.conftest import hooks
from tests.models import LANGUAGE_MODELS, random_model

IDS = torch.arange(4, 12)[None]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_its_logits_are_the_models(family, dtype):
    model = random_model(family).to(dtype)
    unembedding = Unembedding.of(model)
    vectors = unembedded_vectors(model, lambda: model(IDS))
    logits = unembedding.capped(unembedding.linear(vectors[0]).float())
    torch.testing.assert_close(logits, model(IDS).logits[0].float(), rtol=0, atol=2 * torch.finfo(dtype).eps * 30)
    assert hooks(model) == 0


@torch.inference_mode()
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_block_of_the_vocabulary_is_a_part_of_the_whole(family):
    model = random_model(family)
    unembedding, vectors = Unembedding.of(model), torch.randn(5, 16)
    whole = unembedding.linear(vectors)
    assert whole.shape == (5, unembedding.vocabulary)
    out = torch.empty(5, 7)
    torch.testing.assert_close(unembedding.linear(vectors, slice(3, 10), out), whole[:, 3:10])
    torch.testing.assert_close(out, whole[:, 3:10])


@torch.inference_mode()
def test_a_bias_belongs_to_it():
    model = random_model("gpt2")
    model.lm_head = nn.Linear(16, 400)
    model.transformer.ln_f.bias.normal_()
    unembedding = Unembedding.of(model)
    vectors = unembedded_vectors(model, lambda: model(IDS))
    torch.testing.assert_close(unembedding.linear(vectors[0]), model(IDS).logits[0])
    shift, gain = unembedding.norm_logits.T
    torch.testing.assert_close(shift, model.lm_head.weight @ model.transformer.ln_f.bias + model.lm_head.bias)
    torch.testing.assert_close(gain, model.lm_head.weight @ model.transformer.ln_f.weight)


@torch.inference_mode()
def test_what_lies_on_several_devices_is_left_to_the_model():
    model = random_model("gpt2")
    for devices, taken in (([0, 1], False), ([0, "cpu"], False), ([0, 0], True)):
        model.hf_device_map = {f"transformer.h.{i}": device for i, device in enumerate(devices)}
        assert (Unembedding.of(model) is not None) is taken


@torch.inference_mode()
def test_numbers_of_the_norm_have_the_dtype_of_the_head():
    model = random_model("gpt2").to(torch.bfloat16)
    model.transformer.ln_f.float()
    handle = model.transformer.ln_f.register_forward_hook(lambda _, __, output: output.to(torch.bfloat16))
    pre = model.transformer.ln_f.register_forward_pre_hook(lambda _, args: (args[0].float(),))
    found = Unembedding.of(model)
    assert found.norm_weight.dtype == found.norm_bias.dtype == found.norm_logits.dtype == torch.bfloat16
    handle.remove(), pre.remove()


@torch.inference_mode()
def test_a_head_of_another_shape_is_refused():
    model = random_model("gpt2")
    model.register_forward_hook(lambda _, __, output: output.__setitem__("logits", output.logits[..., :-1]))
    assert Unembedding.of(model) is None


@torch.inference_mode()
def test_a_head_that_does_more_is_not_taken_for_one():
    """Logits scaled or shifted behind the matrix, another class of module, and one that gives fewer logits."""
    model = random_model("gpt2")
    handle = model.lm_head.register_forward_hook(lambda _, __, output: output * 1.01)
    assert Unembedding.of(model) is None
    handle.remove()
    assert Unembedding.of(model) is not None
    handle = model.register_forward_hook(lambda _, __, output: output.__setitem__("logits", output.logits + 0.1))
    assert Unembedding.of(model) is None
    handle.remove()

    class Other(nn.Linear):
        pass

    model.lm_head = Other(16, 400)
    assert Unembedding.of(model) is None


@torch.inference_mode()
def test_the_vectors_of_a_pass_cost_one_row_of_the_head():
    model, rows = random_model("llama"), []
    handle = model.lm_head.register_forward_hook(lambda _, __, output: rows.append(output.shape[:2]))
    vectors = unembedded_vectors(model, lambda: model(IDS.repeat(3, 1)))
    handle.remove()
    assert vectors.shape == (3, 8, 16)
    assert rows == [(1, 1)]
    assert hooks(model) == 0
