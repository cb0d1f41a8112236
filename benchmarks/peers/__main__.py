"""`make bench-peers`: what extraction costs with other tools beside NeuronLens, printed and written to benchmarks/peers.json.

All read the same thing from the same rows, the residual stream behind each of twelve blocks at the last real token. Within a peer's
environment it, NeuronLens and plain forward passes of the body take turns in one process. On GPT-2 small the passes themselves are nearly
all of the time; on narrow blocks it is what a tool does around them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import workload
from benchmarks.peers.adapters import ADAPTERS
from benchmarks.peers.compare import AGAIN, OWN
from benchmarks.peers.environments import RELEASES, InstallError, environment
from neuronlens.activations.batching import token_budget_batches
from neuronlens.artifact import write_json

RESULTS = Path(__file__).parent.with_name("peers.json")
HOME = Path(".peers")
ROWS, BATCH_TOKENS = 12, 768
MODELS: dict[str, tuple[int, dict[str, int]]] = {  # rounds, and sizes that are not GPT-2 small's
    "GPT-2 small": (7, {}),
    "blocks of width 64": (41, {"n_embd": 64, "n_head": 4}),
}

Found = dict[str, Any]


def rows() -> list[list[list[int]]]:
    """Random token ids in batches: lognormal lengths of 66 tokens in the mean, sorted and packed."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(4.05, 0.5, ROWS).astype(int), 8, 400)
    encoded = [generator.integers(1000, 20000, length).tolist() for length in lengths]
    packed = token_budget_batches([len(ids) for ids in encoded], BATCH_TOKENS)
    return [[encoded[row] for row in batch] for batch in packed]


def run(name: str, folders: Sequence[Path]) -> Found:
    """Measure a peer in its environment, on one workload after the other; where it cannot be, the note says why."""
    found: Found = {"peer": name, "version": RELEASES[name], "note": ADAPTERS[name].__doc__}
    try:
        python = environment(name, HOME)
    except InstallError as error:
        return found | {"note": f"does not install: {error}"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "found.json"
        done = subprocess.run(
            [python, "-m", "benchmarks.peers.compare", name, out, *folders],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            return found | {"note": f"does not run: {(done.stderr.strip().splitlines() or ['no message'])[-1][:300]}"}
        measured = json.loads(out.read_text(encoding="utf-8"))
    models = [
        {"model": title, "rows": table, "own_over_peer": own_over_peer(table)}
        for title, table in zip(MODELS, measured["rows"], strict=True)
    ]
    return found | {"models": models, "versions": measured["versions"]}


def own_over_peer(table: Sequence[Found]) -> float:
    """NeuronLens's ratio over that of the fastest way of the peer."""
    ratios = {row["name"]: row["ratio"] for row in table}
    return round(ratios[OWN] / min(ratio for title, ratio in ratios.items() if title not in (OWN, AGAIN)), 4)


def show(found: Found) -> None:
    """Print a peer's tables."""
    print(f"{found['peer']} {found['version']}: {found['note']}", flush=True)
    for part in found.get("models", []):
        print(f"  {part['model']}, over a plain forward pass on the same batches")
        for row in part["rows"]:
            spread = f"{row['ratio']:6.3f}  [{row['low']:.3f}, {row['high']:.3f}]  {row['seconds']:6.3f} s"
            difference = f"  difference {row['difference']:.1e}" if "difference" in row else ""
            layers = f", other values at layers {row['layers_that_differ']}" if row.get("layers_that_differ") else ""
            print(f"    {row['name']:50s} {spread}{difference}{layers}")
        print(f"    NeuronLens over the fastest of these: {part['own_over_peer']:.3f}", flush=True)


def main() -> None:
    """Run and report."""
    folders = []
    for number, (rounds, sizes) in enumerate(MODELS.values()):
        folders.append((HOME / f"checkpoint-{number}").resolve())
        workload.write(folders[-1], rows(), rounds, **sizes)
    results = []
    for name in ADAPTERS:
        results.append(run(name, folders))
        show(results[-1])
    write_json(RESULTS, {"results": results, "rows": ROWS, "batch_tokens": BATCH_TOKENS})
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


if __name__ == "__main__":
    main()
