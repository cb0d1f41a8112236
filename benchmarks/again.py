"""What it costs to ask for an audit that is there: the command once more, in a process of its own, as a user runs it.

On GPT-2-small's config with random weights and few rows. Seconds are by the clock, from the command's start to its end.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.audit import Audit, Size
from benchmarks.measure import Ratio

_SIZE = Size(fit=10, test=5, documents=4, tokens=64)


def run(size: Size = _SIZE, config: GPT2Config | None = None, rounds: int = 3) -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config or GPT2Config()).eval()
    with tempfile.TemporaryDirectory() as name:
        audit = Audit(model, size, Path(name))
        root = Path(name) / "workspace"
        root.mkdir()
        asked = audit.config(audit.layers[0], perplexity=True).model_dump(mode="json", exclude={"remote"})
        (root / "params.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
        yield "GPT-2 small: an audit that is there, over making it", again(root, rounds)


def again(root: Path, rounds: int) -> list[Ratio]:
    """The second run and those behind it, over the first, which runs without Prefect.

    Args:
        root: of a workspace with a params.yaml.
    """
    first = _seconds(root, "audit", "--no-flow")
    found = {"without Prefect": _turns(root, rounds, "audit", "--no-flow")}
    found["as a flow, without a server"] = _turns(root, rounds, "audit")
    _seconds(root, "up")
    try:
        found["as a flow, with a server"] = _turns(root, rounds, "audit")
    finally:
        _seconds(root, "down")
    return [
        Ratio(name, statistics.median(spent) / first, min(spent) / first, max(spent) / first, statistics.median(spent))
        for name, spent in found.items()
    ]


def _turns(root: Path, rounds: int, *words: str) -> list[float]:
    """Seconds of each turn behind one that does not count."""
    return [_seconds(root, *words) for _ in range(rounds + 1)][1:]


def _seconds(root: Path, *words: str) -> float:
    environment = os.environ | {"PREFECT_HOME": str(root / ".prefect")}
    for name in (
        "PREFECT_API_URL",
        "PYTHONDONTWRITEBYTECODE",
    ):  # the latter would have every run compile what it imports
        environment.pop(name, None)
    command = [sys.executable, "-P", "-c", "import sys; from flows.cli import main; sys.exit(main())", *words]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"neuronlens {' '.join(words)}: {done.stderr}")
    return time.perf_counter() - start
