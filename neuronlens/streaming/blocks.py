"""Blocks: some neurons at a time, so that what is computed on the way stays in cache. No neuron's numbers depend on the others."""

from __future__ import annotations

from collections.abc import Iterator

# of one float64 array as large as a block: several are alive at once, and blocks much smaller spend their time on calls
BLOCK_BYTES = 2**20


def blocks(neurons: int, values: int) -> Iterator[slice]:
    """Slices that cover the neurons in order, at least one, each of as many as fit into a block.

    Args:
        values: number of a neuron.
    """
    step = max(1, BLOCK_BYTES // (8 * max(1, values)))
    for start in range(0, max(1, neurons), step):
        yield slice(start, start + step)
