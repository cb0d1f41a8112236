"""One adapter for each peer: the residual stream behind all blocks at the last real token, read as the peer's documentation does it.

Every function here runs in the environment of its own peer, so that is where the peer is imported.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import AutoModel

from benchmarks.peers.workload import Workload
from benchmarks.words import sentence

Read = Callable[[], torch.Tensor]
"""Reads the whole workload: [L, N, D], rows in the order of its batches."""


def neurox(work: Workload) -> Mapping[str, Read]:
    """Takes one sentence at a time, and gives all tokens of all layers as float64, the last layer behind the final norm."""
    from neurox.data.extraction.transformers_extractor import (
        extract_sentence_representations,
        get_model_and_tokenizer,
    )
    from neurox.data.writer import ActivationsWriter

    model, tokenizer = get_model_and_tokenizer(str(work.folder))
    counts: dict[str, int] = {}  # a cache of NeuroX's own, shared by the sentences of a corpus

    def extract(row: list[int]) -> tuple[object, list[str]]:
        # it prints every sentence
        with contextlib.redirect_stdout(io.StringIO()):
            return extract_sentence_representations(
                sentence(row), model, tokenizer, include_embeddings=False, tokenization_counts=counts
            )

    def in_memory() -> torch.Tensor:
        found = [torch.as_tensor(extract(row)[0])[:, -1] for batch in work.rows for row in batch]
        return torch.stack(found, dim=1)

    def written() -> torch.Tensor:
        found = []
        with tempfile.TemporaryDirectory() as folder:
            writer = ActivationsWriter.get_writer(str(Path(folder) / "activations.hdf5"), filetype="hdf5")
            for place, row in enumerate(row for batch in work.rows for row in batch):
                states, words = extract(row)
                writer.write_activations(place, words, states)
                found.append(torch.as_tensor(states)[:, -1])
            writer.close()
        return torch.stack(found, dim=1)

    return {"in memory": in_memory, "written as HDF5": written}


def nnsight(work: Workload) -> Mapping[str, Read]:
    """Traces the bare body, and the language model up to its last block."""
    from nnsight import NNsight, TransformersModel

    body = NNsight(AutoModel.from_pretrained(work.folder).eval())
    whole = TransformersModel(str(work.folder), task="text-generation", dispatch=True)

    def bare() -> torch.Tensor:
        found = []
        for batch in work.batches:
            states = []
            with body.trace(**batch.inputs, use_cache=False):
                for block in body.h:
                    states.append(block.output[batch.index, batch.last].save())
            found.append(torch.stack(states))
        return torch.cat(found, dim=1)

    def stopped() -> torch.Tensor:
        found = []
        for batch in work.batches:
            states = []
            with whole.trace(batch.inputs, use_cache=False) as tracer:
                for block in whole.transformer.h:
                    states.append(block.output[batch.index, batch.last].save())
                tracer.stop()
            found.append(torch.stack(states))
        return torch.cat(found, dim=1)

    return {"NNsight of the body": bare, "TransformersModel, stopped after the blocks": stopped}


def pyvene(work: Workload) -> Mapping[str, Read]:
    """Collects at the last real token of each row."""
    import pyvene as pv

    body = AutoModel.from_pretrained(work.folder).eval()
    layers = range(len(body.h))
    model = pv.IntervenableModel(
        [{"layer": i, "component": "block_output", "intervention_type": pv.CollectIntervention} for i in layers],
        model=body,
    )

    def collect() -> torch.Tensor:
        found = []
        for batch in work.batches:
            places = [[place] for place in batch.last.tolist()]
            (_, states), _ = model(batch.inputs, unit_locations={"base": [places for _ in layers]}, use_cache=False)
            found.append(torch.stack(states).reshape(len(layers), len(places), -1))
        return torch.cat(found, dim=1)

    return {"CollectIntervention": collect}


def transformer_lens(work: Workload) -> Mapping[str, Read]:
    """Caches the blocks' outputs of the language model, whose head it always runs."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(work.folder), device="cpu", dtype=torch.float32)
    names = [f"blocks.{i}.hook_out" for i in range(bridge.cfg.n_layers)]

    def cached(names_filter: list[str] | None, **options: object) -> torch.Tensor:
        found = []
        for batch in work.batches:
            inputs = dict(batch.inputs)
            _, cache = bridge.run_with_cache(inputs.pop("input_ids"), names_filter=names_filter, **inputs, **options)
            found.append(torch.stack([cache[name][batch.index, batch.last] for name in names]))
        return torch.cat(found, dim=1)

    return {
        "run_with_cache of the blocks": lambda: cached(names),
        "the same, head at one position": lambda: cached(names, logits_to_keep=1),
        "run_with_cache of everything": lambda: cached(None),
    }


ADAPTERS: Mapping[str, Callable[[Workload], Mapping[str, Read]]] = {
    "neurox": neurox,
    "nnsight": nnsight,
    "pyvene": pyvene,
    "transformer-lens": transformer_lens,
}
