"""Sparse autoencoders are read as they were written, and latents are what their formulas say."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from neuronlens.autoencoder_file import load_autoencoder, place_of
from neuronlens.errors import CheckpointError
from tests import autoencoders

WIDTH, LATENTS = autoencoders.WIDTH, autoencoders.LATENTS
KINDS = (*autoencoders.SAELENS, *autoencoders.SPARSIFY)


def by_hand(kind: str, tensors: dict[str, np.ndarray], config: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Latents of one vector, number by number in float64."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    norm = config.get("normalize_activations", "none")
    if norm == "constant_norm_rescale":
        x = x * math.sqrt(WIDTH) / np.linalg.norm(x)
    if norm == "layer_norm":
        x = (x - x.mean()) / (x.std(ddof=1) + 1e-5)
    encoder = t["W_enc"] if "W_enc" in t else t["encoder.weight"].T
    if config.get("apply_b_dec_to_input", True):
        x = x - t["b_dec"]
    latents = np.zeros(LATENTS)
    for m in range(LATENTS):
        before = float(x @ encoder[:, m])
        if kind == "gated":
            magnitude = max(0.0, before * math.exp(t["r_mag"][m]) + t["b_mag"][m])
            latents[m] = magnitude if before + t["b_gate"][m] > 0 else 0.0
            continue
        before += float((t["b_enc"] if "b_enc" in t else t["encoder.bias"])[m])
        if config.get("rescale_acts_by_decoder_norm"):
            before *= np.linalg.norm(t["W_dec"][m])
        latents[m] = max(0.0, before)
        if kind in ("jumprelu", "batchtopk") and before <= t["threshold"][m]:
            latents[m] = 0.0
    if kind.startswith("topk"):
        latents[np.argsort(-latents, kind="stable")[config["k"] :]] = 0.0
    if kind == "groupmax":
        size = LATENTS // config["k"]
        for start in range(0, LATENTS, size):
            group = latents[start : start + size]
            group[np.arange(size) != group.argmax()] = 0.0
    return latents


@pytest.mark.parametrize("norm", ["none", "constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_reconstructions_are_those_of_the_formulas(tmp_path: Path, kind: str, norm: str) -> None:
    given_norm = {"normalize_activations": norm} if kind in autoencoders.SAELENS else {}
    tensors, config = autoencoders.write(tmp_path / "sae", kind, **given_norm)
    sae = load_autoencoder(tmp_path / "sae")
    assert (sae.width, sae.latents) == (WIDTH, LATENTS)
    hidden = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    latents = sae.encode(hidden)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    expected = np.array(
        [by_hand(kind, arrays, config, row.astype(np.float64)) for row in hidden.numpy().reshape(-1, WIDTH)]
    )
    np.testing.assert_allclose(latents.numpy().reshape(-1, LATENTS), expected, rtol=1e-4, atol=1e-5)
    assert 0 < (latents > 0).float().mean() < 1
    norms = np.linalg.norm(arrays["W_dec"], axis=1) if config.get("rescale_acts_by_decoder_norm") else 1.0
    rows = hidden.numpy().reshape(-1, WIDTH).astype(np.float64)
    back = expected / norms @ arrays["W_dec"] + arrays["b_dec"]
    if given_norm.get("normalize_activations") == "constant_norm_rescale":
        back *= np.linalg.norm(rows, axis=1, keepdims=True) / math.sqrt(WIDTH)
    if given_norm.get("normalize_activations") == "layer_norm":
        back = back * rows.std(axis=1, ddof=1, keepdims=True) + rows.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(sae.decode(latents, hidden).numpy().reshape(-1, WIDTH), back, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("kind", autoencoders.SAELENS)
def test_a_change_keeps_what_is_not_reconstructed(tmp_path: Path, kind: str, norm: str) -> None:
    autoencoders.write(tmp_path / "sae", kind, normalize_activations=norm)
    sae = load_autoencoder(tmp_path / "sae")
    hidden = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(2))
    before = sae.encode(hidden)
    after = before.clone()
    after[0, 1] = 0.0
    changed = sae.change(hidden, before, after)
    error = hidden - sae.decode(before, hidden)
    torch.testing.assert_close(changed, sae.decode(after, hidden) + error, rtol=1e-5, atol=1e-5)
    assert not torch.equal(changed[0, 1], hidden[0, 1])
    changed[0, 1] = hidden[0, 1]
    assert torch.equal(changed, hidden), "tokens whose latents are the same stay the same to the last bit"
    half = hidden.bfloat16()
    assert torch.equal(sae.change(half, before, before), half)
    assert sae.change(half, before, after).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("blocks.3.hook_resid_post", "resid_post.3"),
        ("blocks.3.hook_resid_pre", "resid_post.2"),
        ("blocks.0.hook_resid_pre", None),
        ("blocks.11.hook_mlp_out", "mlp_out.11"),
        ("blocks.2.hook_attn_out", "attn_out.2"),
        ("blocks.2.attn.hook_z", None),
        ("blocks.2.mlp.hook_post", "mlp_post.2"),
        ("layers.7", "resid_post.7"),
        ("transformer.h.10", "resid_post.10"),
        ("model.layers.4.mlp", "mlp_out.4"),
        ("gpt_neox.layers.4.attention", "attn_out.4"),
        ("embed_tokens", None),
        ("None", None),
    ],
)
def test_hook_names_are_sites(name: str, place: str | None) -> None:
    assert place_of(name) == place


def test_where_it_was_trained_is_told_by_its_configuration_or_its_folder(tmp_path: Path) -> None:
    autoencoders.write(tmp_path / "new", "standard", metadata={"hook_name": "blocks.1.hook_resid_post"})
    autoencoders.write(tmp_path / "old", "standard", hook_name="blocks.0.hook_mlp_out")
    autoencoders.write(tmp_path / "layers.1", "topk/sparsify")
    found = [load_autoencoder(tmp_path / name).place for name in ("new", "old", "layers.1")]
    assert found == ["resid_post.1", "mlp_out.0", "resid_post.1"]


def test_its_identity_is_that_of_its_bytes(tmp_path: Path) -> None:
    for name in ("one", "same"):
        autoencoders.write(tmp_path / name, "standard")
    autoencoders.write(tmp_path / "other", "standard", apply_b_dec_to_input=False)
    one, same, other = (load_autoencoder(tmp_path / name).fingerprint for name in ("one", "same", "other"))
    assert one == same != other


def test_what_somebody_holds_is_not_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    tensors, _ = autoencoders.write(folder, "standard")
    held = load_autoencoder(folder)
    assert load_autoencoder(folder) is held
    file = folder / "sae_weights.safetensors"
    save_file({**tensors, "b_dec": tensors["b_dec"] + 1}, file)
    changed = load_autoencoder(folder)
    assert changed.fingerprint != held.fingerprint
    assert torch.equal(changed.decoder_bias, held.decoder_bias + 1)


@pytest.mark.parametrize(
    ("kind", "config", "match"),
    [
        ("standard", {"architecture": "jumprelo"}, r"unknown architecture 'jumprelo'\. Did you mean 'jumprelu'"),
        ("standard", {"architecture": "jumprelu"}, "has no tensor threshold"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "units of its own.*fold"),
        ("topk", {"k": 0}, "no k between 1 and"),
        ("topk", {"k": LATENTS + 1}, "no k between 1 and"),
        ("topk/sparsify", {"transcode": True}, "is a transcoder"),
        ("topk/sparsify", {"activation": "relu"}, "unknown activation 'relu'"),
        ("groupmax", {"k": 5}, "groups of no equal size"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, kind: str, config: dict[str, Any], match: str) -> None:
    autoencoders.write(tmp_path / "sae", kind, **config)
    with pytest.raises(CheckpointError, match=f"(?i){match}"):
        load_autoencoder(tmp_path / "sae")


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("W_dec", torch.zeros(LATENTS, WIDTH + 1), r"W_dec has shape \[24, 9\]"),
        ("b_dec", torch.zeros(WIDTH, 1), r"b_dec has shape \[8, 1\]"),
        ("b_enc", torch.full((LATENTS,), torch.nan), "b_enc holds NaN"),
        ("W_enc", torch.zeros(0, 4), r"W_enc has shape \[0, 4\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, name: str, tensor: torch.Tensor, match: str) -> None:
    tensors, _ = autoencoders.write(tmp_path / "sae", "standard")
    save_file(tensors | {name: tensor}, tmp_path / "sae" / "sae_weights.safetensors")
    with pytest.raises(CheckpointError, match=match):
        load_autoencoder(tmp_path / "sae")


def test_a_folder_without_one_names_one_that_has(tmp_path: Path) -> None:
    autoencoders.write(tmp_path / "all" / "layers.1", "topk/sparsify")
    with pytest.raises(CheckpointError, match=r"holds no sparse autoencoder.*layers\.1"):
        load_autoencoder(tmp_path / "all")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_autoencoder(tmp_path / "nowhere")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["cfg.json", "sae_weights.safetensors"]), where=st.floats(0, 1), bit=st.integers(0, 8))
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str, where: float, bit: int) -> None:
    """A bit that is turned round, or the end of a file that is missing."""
    folder = tmp_path / "sae"
    shutil.rmtree(folder, ignore_errors=True)
    autoencoders.write(folder, "jumprelu")
    content = bytearray((folder / name).read_bytes())
    place = int(where * (len(content) - 1))
    if bit == 8:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    (folder / name).write_bytes(bytes(content))
    try:
        load_autoencoder(folder)
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_configuration_that_is_no_object_is_refused(tmp_path: Path) -> None:
    autoencoders.write(tmp_path / "sae", "standard")
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(["standard"]))
    with pytest.raises(CheckpointError, match="is no JSON object"):
        load_autoencoder(tmp_path / "sae")
