"""Sparse autoencoders of random weights, as SAELens and sparsify write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WIDTH, LATENTS = 8, 24
SAELENS = ("standard", "jumprelu", "batchtopk", "gated", "topk", "topk scaled")
SPARSIFY = ("topk/sparsify", "groupmax")


def write(
    folder: Path, kind: str, width: int = WIDTH, latents: int = LATENTS, **config: Any
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """One of a kind, with other words in its configuration.

    Returns:
        Its tensors and its configuration.
    """
    made = torch.Generator().manual_seed(7)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    folder.mkdir(parents=True)
    encoder, decoder = 0.6 * random(width, latents), random(latents, width)
    tensors = {"W_dec": decoder, "b_dec": 0.3 * random(width)}
    if kind in SPARSIFY:
        tensors |= {"encoder.weight": encoder.T.contiguous(), "encoder.bias": 0.2 * random(latents)}
        written = {"activation": kind.partition("/")[0], "k": 4, "d_in": width, "num_latents": latents, **config}
        save_file(tensors, folder / "sae.safetensors")
    else:
        architecture = kind.partition(" ")[0]
        tensors["W_enc"] = encoder
        if architecture == "gated":
            tensors |= {name: 0.3 * random(latents) for name in ("b_gate", "b_mag", "r_mag")}
        else:
            tensors["b_enc"] = 0.2 * random(latents)
        if architecture in ("jumprelu", "batchtopk"):
            tensors["threshold"] = 0.4 * random(latents).abs()
        written = {"architecture": architecture, "d_in": width, "d_sae": latents}
        if architecture == "topk":
            written |= {"k": 4, "rescale_acts_by_decoder_norm": kind != architecture}
        written |= config
        save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(written))
    return tensors, written
