"""What stored activations weigh, and the CPU time it takes to read one neuron of them, from files that the system holds in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Ratio, interleave
from neuronlens.activations.batching import placed
from neuronlens.activations.store import Floats, plan_shards, read_neuron, read_shard, shard_path, write_shard
from neuronlens.sites import Site

SITE = Site(0, "mlp_post")


@dataclass(frozen=True)
class Size:
    """How many there are of what."""

    examples: int = 10_000
    neurons: int = 14_336
    concepts: int = 14
    batch: int = 16


def run(size: Size | None = None) -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    size = Size() if size is None else size
    batches = np.split(np.arange(size.examples), range(size.batch, size.examples, size.batch))
    planned = plan_shards(placed({"test": batches}), [size.neurons])
    shards = [sum(len(rows) for _, _, rows in members) for members in planned]
    what = f"{size.examples} examples x {size.neurons} neurons that came from bfloat16, in {len(shards)} shard{'s' * (len(shards) > 1)}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield f"{what}: bytes on disk, over float32's", [weight(root, size, shards)]
        yield f"{what}: one neuron by concept, over reading the site", reading(root, size, len(shards))


def activations(examples: int, neurons: int, seed: int) -> Floats:
    """[D, n] normal values, neurons with means and widths of their own, rounded to bfloat16."""
    own, generator = np.random.default_rng(0), np.random.default_rng([1, seed])
    mean, std = own.normal(0, 0.3, neurons), own.uniform(0.1, 2, neurons)
    found = np.empty((neurons, examples), dtype=np.float32)
    for neuron in range(0, neurons, 512):
        cut = slice(neuron, neuron + 512)
        drawn = mean[cut, None] + std[cut, None] * generator.standard_normal(found[cut].shape, dtype=np.float32)
        found[cut] = torch.from_numpy(drawn).bfloat16().float().numpy()
    return found


def weight(folder: Path, size: Size, shards: Sequence[int]) -> Ratio:
    """Write all shards and look at their sizes; they give back what was put in, to the bit."""
    ratios = []
    for shard, examples in enumerate(shards):
        values, path = activations(examples, size.neurons, shard), shard_path(folder, SITE, shard)
        write_shard(path, values)
        assert np.array_equal(read_shard(path), values)
        ratios.append((path.stat().st_size, values.nbytes))
    written, raw = map(sum, zip(*ratios, strict=True))
    shares = [own / whole for own, whole in ratios]
    return Ratio("neuron-major tiles", written / raw, min(shares), max(shares))


def reading(folder: Path, size: Size, shards: int) -> list[Ratio]:
    """One neuron's values, split by concept; another neuron each time."""
    generator = np.random.default_rng(2)
    concept = generator.integers(size.concepts, size=size.examples)
    members = [np.flatnonzero(concept == name) for name in range(size.concepts)]
    neurons = iter(generator.integers(size.neurons, size=1000).tolist())

    def one() -> list[Floats]:
        values = read_neuron(folder, SITE, next(neurons))
        return [values[rows] for rows in members]

    def site() -> None:
        # one shard after the other, so that the benchmark needs no memory for all of them
        for shard in range(shards):
            read_shard(shard_path(folder, SITE, shard))

    return interleave(site, {"one neuron": one}, rounds=15)
