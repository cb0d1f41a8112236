"""Bytes that an extraction without rows takes at most, in a process of its own.

`traced` is what Python and NumPy allocate, but for the texts and tokens that go in; `resident` is the most that the process has held, with
everything. They take a process each, since tracing takes memory, too.
"""

from __future__ import annotations

import resource
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import torch

from neuronlens.activations.extract import extract
from neuronlens.activations.extraction import Extraction
from neuronlens.config import Config


def main(words: Sequence[str]) -> int:
    """Extract from a checkpoint and what is prepared into a folder, and tell what was `traced` or is `resident`."""
    checkpoint, prepared, folder, what = words
    out = Path(folder)
    torch.set_num_threads(1)
    out.mkdir()
    # small batches, so that blocks of rows are full however few there are
    asked = {"sites": ["resid_post.all", "mlp_post.all"], "keep_rows": False, "batch_tokens": 256}
    config = Config.model_validate({"checkpoint": {"path": checkpoint}, "extract": asked})
    planned = Extraction.plan(config, Path(prepared), 0)
    Extraction.plan = classmethod(lambda *_: planned)  # what goes in is as large as the data, and no activations
    if what == "traced":
        tracemalloc.start()
    extract(config, {"prepare": Path(prepared)}, out, keep_bytes=0)
    found = (
        tracemalloc.get_traced_memory()[1]
        if what == "traced"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    sys.stdout.write(f"{found}\n")
    return 0
