"""`python -m benchmarks.profile`: where extraction spends its time on GPT-2-small's config with random weights, 24 sites at once."""

from __future__ import annotations

import cProfile
import pstats
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmarks.words import lengths
from neuronlens.activations.batching import placed, split_batches
from neuronlens.activations.hidden import Keeper
from neuronlens.activations.passes import Pass, Passes
from neuronlens.activations.readout import has_vocabulary
from neuronlens.dataset import Dataset
from neuronlens.encoding import Labels
from neuronlens.sites import expand_sites, family_of, layer_count

ROWS, BATCH_TOKENS = 60, 1024
CONCEPTS = ("one", "other")
SPLITS = ("fit", "fit", "test")
Function = tuple[str, int, str]


@dataclass(frozen=True)
class Profile:
    """Where the time of a run went.

    Attributes:
        seconds: of the run, with the profiler's own cost.
        inside: share of it inside the model, hooks apart.
        hooks: share inside hooks.
        functions: (name, share) of the functions outside the model, with the built-in functions that each calls, most expensive first.
    """

    seconds: float
    inside: float
    hooks: float
    functions: Sequence[tuple[str, float]]


def rows_of(count: int, *, seed: int = 0) -> list[list[int]]:
    """Token ids of rows of realistic lengths (see `benchmarks.words.lengths`)."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1000, 20000, length).tolist() for length in lengths(count, generator)]


def extraction(
    model: PreTrainedModel,
    encoded: Sequence[Sequence[int]],
    batch_tokens: int,
    *,
    keep: bool = True,
    sites: Sequence[str] = ("resid_post.all", "mlp_post.all"),
) -> Iterator[int]:
    """Extraction without the disk: the sites pooled, every row answered, what evaluation starts from kept.

    Yields:
        Passes over a batch, batch by batch; the rows are answered behind the last.
    """
    places = range(len(encoded))
    split = [SPLITS[i % len(SPLITS)] for i in places]
    dataset = Dataset("rows", places, [""] * len(encoded), [CONCEPTS[i % 2] for i in places], split)
    lengths = [len(ids) for ids in encoded]
    wanted = expand_sites(sites, layer_count(model.config))
    batches = split_batches(lengths, dataset.split, batch_tokens)
    kind = "language_model" if has_vocabulary(model) else "classifier"
    checkpoint = SimpleNamespace(
        model=model, config=model.config, tokenizer=None, kind=kind, family=family_of(model.config)
    )
    keeper = Keeper.of_sites(model, wanted, batches, lengths) if keep else None
    labels = Labels(CONCEPTS, (0, 1), CONCEPTS)
    passes = Passes(checkpoint, dataset, encoded, labels, wanted, "auto", "constrained", keeper)
    found: list[Pass] = []
    for parts in passes.over(placed(batches)):
        found += parts
        yield len(parts)
    passes.answers(found)


def passes_over(
    model: PreTrainedModel, encoded: Sequence[Sequence[int]], batch_tokens: int, *, keep: bool = True
) -> int:
    """Run `extraction`. How many passes there were."""
    return sum(extraction(model, encoded, batch_tokens, keep=keep))


def profile(model: PreTrainedModel, encoded: Sequence[Sequence[int]], batch_tokens: int) -> Profile:
    """Run the rows under cProfile."""
    profiler = cProfile.Profile()
    profiler.runcall(passes_over, model, encoded, batch_tokens)
    return read_profile(pstats.Stats(profiler), type(model).forward.__code__)


def read_profile(stats: pstats.Stats, entrance: object) -> Profile:
    """Tell the model's time from everything else.

    Args:
        entrance: code of the model's forward function. Wrappers around it carry the same name in another file, and are the model's, too.
    """
    called: dict[Function, tuple[int, int, float, float, dict[Function, tuple[int, int, float, float]]]] = stats.stats
    total = stats.total_tt
    here = Path(__file__).resolve().parent.parent
    ours = {function for function in called if Path(function[0]).is_relative_to(here / "neuronlens")}
    forward = next(function for function in called if function[:2] == (entrance.co_filename, entrance.co_firstlineno))
    hooks = 0.0
    own: Counter[Function] = Counter()
    for function, (_, _, time, _, callers) in called.items():
        if function in ours:
            own[function] += time
            hooks += sum(spent[3] for caller, spent in callers.items() if "torch/nn/modules/module.py" in caller[0])
        elif function[0] == "~":  # written in C: whoever called it spent the time
            for caller, spent in callers.items():
                if caller in ours:
                    own[caller] += spent[2]
    # hooks of the model itself and of its head run outside the blocks, but not outside the call
    inside = called[forward][3] - hooks
    named = [(f"{Path(file).stem}.{name}", time / total) for (file, _, name), time in own.most_common()]
    return Profile(total, inside / total, hooks / total, named)


def main() -> None:
    """Run and print."""
    torch.set_num_threads(1)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    encoded = rows_of(ROWS)
    passes_over(model, encoded[:8], BATCH_TOKENS)  # the first calls are slower than all others
    found = profile(model, encoded, BATCH_TOKENS)
    print(f"extraction of {ROWS} rows, GPT-2 small, 24 sites: {found.seconds:.2f} s under the profiler")
    print(f"  {found.inside:8.2%}  inside the model")
    print(f"  {found.hooks:8.2%}  inside hooks")
    print("of these and of what is left, by function of neuronlens:")
    for name, share in found.functions[:12]:
        print(f"  {share:8.3%}  {name}")


if __name__ == "__main__":
    main()
