"""What reading all layers costs beside the plain forward pass, and the memory of an extraction that keeps no rows.

On an accelerator Llama-3.1-8B's config in bfloat16 with random weights, by the clock and by what torch has allocated on the card; without
one GPT-2-small's config on the processor, by processor time and by the most that a process of its own has
held since it had its model (Linux). The titles say which.

`python -m benchmarks.scale plain|read` and `python -m benchmarks.scale summed FOLDER ROWS` are those processes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from benchmarks import extraction, profile
from benchmarks.measure import Ratio, interleave
from benchmarks.scaling import LLAMA
from benchmarks.words import FIRST, sentence, word_tokenizer
from neuronlens.activations.batching import Batch, collate, split_batches
from neuronlens.activations.extract import extract
from neuronlens.activations.memory import batch_budget
from neuronlens.artifact import write_table
from neuronlens.config import Config
from neuronlens.dataset import Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

SITES = ("resid_post.all",)
ROWS, CARD_ROWS = 32, 2048
SUMMED = (1000, 20_000)
SMALL = GPT2Config(
    n_embd=64, n_inner=512, n_layer=2, n_head=4, vocab_size=256, n_positions=64, bos_token_id=None, eos_token_id=None
)
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run(rows: int = ROWS, rounds: int = 3, summed: tuple[int, int] = SUMMED) -> Iterator[tuple[str, list[Ratio]]]:
    """(title, ratios) of each benchmark."""
    if torch.cuda.is_available():
        yield (
            f"Llama-3.1-8B's config, bfloat16, {torch.cuda.get_device_name()}: resid_post of all layers, over the blocks",
            on_card(),
        )
    else:
        yield (
            "GPT-2 small's config, processor, no accelerator: resid_post of all layers, over the blocks",
            on_processor(rows, rounds),
        )
    few, many = (of_process("summed", str(count)) for count in summed)
    name = f"{summed[1]:,} rows, over {summed[0]:,}"
    yield "statistics in place of rows, processor: most memory of the process", [_sizes(name, few, many)]


def on_processor(rows: int, rounds: int) -> list[Ratio]:
    """Processor time of the same batches in turns, and peak memory of two processes."""
    model = GPT2LMHeadModel(GPT2Config()).eval()
    encoded, batches = _work(model, rows)
    read, budget = deepcopy(model), batch_budget("auto", model)  # which has hooks from beginning to end
    with torch.inference_mode():
        (spent,) = interleave(
            lambda: extraction.blocks(model, batches),
            {"read": lambda: profile.extraction(read, encoded, budget, keep=False, sites=SITES)},
            rounds,
        )
    return [_throughput(spent), _sizes("peak memory", of_process("plain"), of_process("read"))]


def on_card(rounds: int = 5) -> list[Ratio]:
    """Seconds by the clock and bytes allocated at most, in turns."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LLAMA).eval()
    torch.set_default_dtype(torch.float32)
    encoded, batches = _work(model, CARD_ROWS)
    budget = batch_budget("auto", model)
    works = {
        "plain": lambda: [*extraction.blocks(model, batches)],
        "read": lambda: [*profile.extraction(model, encoded, budget, keep=False, sites=SITES)],
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in works}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, work in works.items():
                measured = _on_card(work)
                if turn:  # the first warms up
                    found[name].append(measured)
    ratios = [read / plain for (read, _), (plain, _) in zip(found["read"], found["plain"], strict=True)]
    seconds = median(spent for spent, _ in found["read"])
    peaks = [max(peak for _, peak in found[name]) for name in ("plain", "read")]
    return [
        _throughput(Ratio("read", median(ratios), min(ratios), max(ratios), seconds)),
        _sizes("peak memory", *peaks),
    ]


def _on_card(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds of some work, and the bytes that were allocated at most."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated()


def _work(model: PreTrainedModel, rows: int) -> tuple[list[list[int]], list[Batch]]:
    """Token ids of some rows, and the batches that extraction makes of them."""
    encoded = profile.rows_of(rows)
    split = [profile.SPLITS[i % len(profile.SPLITS)] for i in range(rows)]
    packed = split_batches([len(ids) for ids in encoded], split, batch_budget("auto", model))
    batches = [collate(encoded, own, pad_id=0, device=model.device) for members in packed.values() for own in members]
    return encoded, batches


def _throughput(spent: Ratio) -> Ratio:
    """Of the time that reading takes over the blocks' own."""
    return Ratio("throughput", 1 / spent.median, 1 / spent.high, 1 / spent.low, spent.seconds)


def _sizes(name: str, one: int, other: int) -> Ratio:
    return Ratio(name, other / one, other / one, other / one)


def of_process(*what: str) -> int:
    """Bytes that a process of its own has held at most."""
    with tempfile.TemporaryDirectory() as folder:
        given = [what[0], folder, *what[1:]] if what[0] == "summed" else what
        ran = subprocess.run([sys.executable, "-m", "benchmarks.scale", *given], check=True, capture_output=True)
    return int(ran.stdout.splitlines()[-1])


def in_process(what: str, folder: Path | None = None, rows: int = ROWS) -> int:
    """Do a thing, and tell how many bytes this process has held at most."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if what == "summed":
        assert folder is not None
        sum_up(folder, rows)
    else:
        model = GPT2LMHeadModel(GPT2Config()).eval()
        encoded, batches = _work(model, rows)
        _FORGET.write_text("5")  # what drawing the weights took
        with torch.inference_mode():
            if what == "plain":
                list(extraction.blocks(model, batches))
            else:
                list(profile.extraction(model, encoded, batch_budget("auto", model), keep=False, sites=SITES))
    peak = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    assert peak is not None
    return int(peak[1]) * 1024


def sum_up(folder: Path, rows: int) -> None:
    """Extract statistics of so many rows of three tokens at four sites of a small model, in place of their activations."""
    checkpoint, prepared, out = (folder / name for name in ("checkpoint", "prepare", "extract"))
    prepared.mkdir()
    out.mkdir()
    GPT2LMHeadModel(SMALL).save_pretrained(checkpoint)
    word_tokenizer(SMALL.vocab_size, SMALL.n_positions).save_pretrained(checkpoint)
    places = range(rows)
    texts = [sentence([FIRST + i // 50**place % 50 for place in range(3)]) for i in places]
    concepts = [profile.CONCEPTS[i % 2] for i in places]
    write_table(prepared / "dataset.parquet", Dataset("rows", places, texts, concepts, ["fit"] * rows).to_table())
    given = {
        "checkpoint": {"path": str(checkpoint)},
        "dataset": {"prompt": "{text}", "labels": {name: f" t{200 + i}" for i, name in enumerate(profile.CONCEPTS)}},
        "extract": {"sites": ["resid_post.all", "mlp_post.all"], "keep_rows": False, "batch_tokens": 256},
    }
    extract(Config.model_validate(given), {"prepare": prepared}, out, keep_bytes=0)


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    print(in_process(what, *([Path(more[0]), int(more[1])] if more else [])))
