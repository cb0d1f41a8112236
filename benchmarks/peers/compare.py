"""`python -m benchmarks.peers.compare NAME OUT FOLDER...`, in a peer's environment: it, NeuronLens and plain forward passes by turns."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel

from benchmarks.measure import interleave
from benchmarks.peers.adapters import ADAPTERS
from benchmarks.peers.workload import Workload
from neuronlens.activations.capture import capture

OWN, AGAIN = "NeuronLens capture", "plain again (noise)"
_EQUAL = (
    1e-3  # largest difference of a float32 value that was computed in another order; another value is off by far more
)


def plain(model: PreTrainedModel, work: Workload) -> None:
    """The body's forward pass over every batch."""
    for batch in work.batches:
        model(**batch.inputs, use_cache=False)


def hooked(model: PreTrainedModel, work: Workload) -> torch.Tensor:
    """[L, N, D] by a bare forward hook on each block: what all others are compared with."""
    found = []
    for batch in work.batches:
        states: list[torch.Tensor] = []

        def keep(_: object, __: object, output: object, states: list[torch.Tensor] = states) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        handles = [block.register_forward_hook(keep) for block in model.h]
        model(**batch.inputs, use_cache=False)
        for handle in handles:
            handle.remove()
        found.append(torch.stack([state[batch.index, batch.last] for state in states]))
    return torch.cat(found, dim=1)


def captured(model: PreTrainedModel, work: Workload) -> torch.Tensor:
    """[L, N, D] by NeuronLens."""
    sites = [f"resid_post.{layer}" for layer in range(len(model.h))]
    found = []
    with capture(model, sites) as values:
        for batch in work.batches:
            model(**batch.inputs, use_cache=False)
            found.append(torch.stack(list(values.values())))
    return torch.cat(found, dim=1)


def compare(name: str, work: Workload) -> list[dict[str, object]]:
    """Ratios over the plain forward pass, and the largest difference of a value from a bare hook's."""
    model = AutoModel.from_pretrained(work.folder).eval()
    variants = dict(ADAPTERS[name](work))
    variants[OWN] = lambda: captured(model, work)
    expected = hooked(model, work)
    differences = {title: (read() - expected).abs().amax(dim=(1, 2)) for title, read in variants.items()}
    ratios = interleave(lambda: plain(model, work), {**variants, AGAIN: lambda: plain(model, work)}, rounds=work.rounds)
    rows = []
    for ratio in ratios:
        row: dict[str, object] = {
            "name": ratio.name,
            "ratio": round(ratio.median, 4),
            "seconds": round(ratio.seconds, 4),
        }
        row |= {"low": round(ratio.low, 4), "high": round(ratio.high, 4)}
        if ratio.name in differences:
            found = differences[ratio.name]
            row["difference"] = float(f"{found.max():.1e}")
            row["layers_that_differ"] = (found > _EQUAL).nonzero().flatten().tolist()
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and write JSON."""
    name, out, *folders = sys.argv[1:]
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = [compare(name, Workload.read(Path(folder))) for folder in folders]
    versions = {package: metadata.version(package) for package in ("torch", "transformers")}
    Path(out).write_text(json.dumps({"rows": found, "versions": versions}), encoding="utf-8")


if __name__ == "__main__":
    main()
