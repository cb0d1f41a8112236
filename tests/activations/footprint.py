"""`python -m tests.activations.footprint CHECKPOINT PREPARED OUT traced|resident`: bytes that an extraction without rows takes at most.

`traced` is what Python and NumPy allocate, but for the texts and tokens that go in; `resident` is the most that the process has held, with
everything. They take a process each, since tracing takes memory, too.
"""

from __future__ import annotations

import resource
import sys
import tracemalloc
from pathlib import Path

import torch

from neuronlens.activations.extract import extract
from neuronlens.activations.extraction import Extraction
from neuronlens.config import Config


def main(checkpoint: str, prepared: Path, out: Path, what: str) -> int:
    """Extract, and tell."""
    torch.set_num_threads(1)
    out.mkdir()
    # small batches, so that blocks of rows are full however few there are
    asked = {"sites": ["resid_post.all", "mlp_post.all"], "keep_rows": False, "batch_tokens": 256}
    config = Config.model_validate({"checkpoint": {"path": checkpoint}, "extract": asked})
    planned = Extraction.plan(config, prepared, 0)
    Extraction.plan = classmethod(lambda *_: planned)  # what goes in is as large as the data, and no activations
    if what == "traced":
        tracemalloc.start()
    extract(config, {"prepare": prepared}, out, keep_bytes=0)
    if what == "traced":
        return tracemalloc.get_traced_memory()[1]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.stdout.write(str(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
