"""Hidden states: what the blocks of a model give on the way, for whoever goes on from there.

The stage `evaluate` starts from the hidden states of rows that the stage `extract` has just run. Where both run in one process, these are
handed over in memory. They are a saving and nothing else: what is not there is computed again, from the same batches and with the same
result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.batching import Ints
from neuronlens.activations.capture import stand_in
from neuronlens.activations.memory import available_memory
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.artifact import hash_value
from neuronlens.checkpoint import Checkpoint
from neuronlens.config import Config
from neuronlens.dataset import Dataset
from neuronlens.sites import Site, blocks_of, expand_sites, layer_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT_SPLITS = ("test", "validation")  # what evaluation runs on; in the order in which room is given
_SHARE = 4  # of the available memory a quarter may be kept


def blocks_before(site: Site) -> int:
    """How many blocks an edit of a site leaves as they are."""
    return site.layer + 1 if site.below.component == "resid_post" else site.layer


@contextlib.contextmanager
def record_blocks(
    model: PreTrainedModel, counts: Sequence[int], store: Callable[[Any], Any] = lambda output: output
) -> Iterator[dict[int, Any]]:
    """Keep what the first n blocks give, for each n > 0 of `counts`, of the latest forward call.

    Args:
        store: what is kept of an output; the output itself, as the block returned it, unless told otherwise.

    Yields:
        n -> the output of block n - 1.
    """
    _, blocks = blocks_of(model)
    outputs: dict[int, Any] = {}
    with contextlib.ExitStack() as stack:
        for count in sorted(set(counts) - {0}):

            def keep(_: torch.nn.Module, __: tuple[Any, ...], output: Any, count: int = count) -> None:
                outputs[count] = store(output)

            stack.callback(blocks[count - 1].register_forward_hook(keep).remove)
        yield outputs


@contextlib.contextmanager
def resume_after(model: PreTrainedModel, count: int, output: Any) -> Iterator[None]:
    """Within the block, the first `count` blocks compute nothing: the last of them returns `output`.

    Args:
        count: 0 changes nothing.
        output: what `record_blocks` kept for `count`, of the same batch.
    """
    _, blocks = blocks_of(model)
    with contextlib.ExitStack() as stack:
        for index in range(count):
            given = (lambda *_, **__: output) if index == count - 1 else passed_on(lambda: output)
            stack.enter_context(stand_in(blocks[index], given))
        yield


def passed_on(form: Callable[[], Any]) -> Callable[..., Any]:
    """What a block does that changes nothing.

    Args:
        form: an output of such a block, for its form.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        return like(form(), args[0] if args else kwargs["hidden_states"])

    return forward


def hidden_of(output: Any) -> torch.Tensor:
    """[B, T, D] of what a block returned."""
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def like(output: Any, hidden: torch.Tensor) -> Any:
    """Other hidden states in the form in which a block returned its own: a tensor, or a tuple led by it.

    What may stand behind it in a tuple (a cache, attention weights) is left empty: no stock model reads it in a plain forward call, and it
    would keep alive many times the memory.
    """
    return (hidden, *([None] * (len(output) - 1))) if isinstance(output, tuple) else hidden


def off_device(output: Any) -> Any:
    """A block's output on the CPU, in the block's own form."""
    return like(output, hidden_of(output).cpu())


def on_device(output: Any, device: torch.device) -> Any:
    """What `off_device` gave, on a device."""
    return like(output, hidden_of(output).to(device))


@dataclass(frozen=True)
class KeptBatch:
    """What the unedited model gave on a batch, on the CPU.

    Attributes:
        rows: [B] places in the dataset, in the order of the batch.
        outputs: n -> output of block n - 1, [B, T, D] or a tuple led by it, for every n > 0 that `blocks_before` gives of an audited site.
        deciding: what the last block gave of the token that decides each row, [B, 1, D], in the block's own form.
        texts: [B] what generation put behind each row, where that answers; else empty.
    """

    rows: Ints
    outputs: Mapping[int, Any]
    deciding: Any
    texts: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        return sum(hidden_of(output).nbytes for output in (*self.outputs.values(), self.deciding))


class Keeper:
    """Keeps the batches of some splits, as far as they fit into a budget. A split is kept whole or not at all.

    Attributes:
        counts: the n of `KeptBatch.outputs`.
    """

    def __init__(
        self, counts: Sequence[int], expected: Mapping[str, int], batches: Mapping[str, int], budget: int
    ) -> None:
        """Choose the splits.

        Args:
            expected: split -> bytes that it will take.
            batches: split -> how many there are of it.
            budget: bytes for all of them together.
        """
        self.counts = counts
        self._found: dict[str, dict[int, KeptBatch]] = {}
        self._room: dict[str, int] = {}
        self._batches = batches
        for split in KEPT_SPLITS:
            if split in expected and expected[split] <= budget:
                budget -= expected[split]
                self._found[split], self._room[split] = {}, expected[split]

    @classmethod
    def of_sites(
        cls,
        model: PreTrainedModel,
        sites: Sequence[Site],
        batches: Mapping[str, Sequence[Ints]],
        lengths: Sequence[int],
        budget: int | None = None,
    ) -> Keeper:
        """What edits of the sites start from.

        Args:
            batches: split -> its batches.
            lengths: [N] tokens of each row.
            budget: bytes; a quarter of the memory that is available now unless told otherwise.
        """
        counts = sorted({blocks_before(site) for site in sites} - {0})
        vector = int(model.config.hidden_size) * model.dtype.itemsize
        expected = {
            split: sum(
                len(rows) * (max(lengths[i] for i in rows) * len(counts) + 1) * vector for rows in batches[split]
            )
            for split in KEPT_SPLITS
            if split in batches
        }
        count = {split: len(own) for split, own in batches.items()}
        return cls(counts, expected, count, available_memory() // _SHARE if budget is None else budget)

    def keeps(self, split: str) -> bool:
        """Whether batches of a split are wanted."""
        return split in self._found

    def add(self, split: str, place: int, batch: KeptBatch) -> None:
        """Keep a batch, unless its split is not kept. A split that turns out larger than expected is dropped.

        Args:
            place: of the batch among those of its split.
        """
        if split not in self._found:
            return
        self._room[split] -= batch.nbytes
        if self._room[split] < 0:
            self.drop(split)
        else:
            self._found[split][place] = batch

    def drop(self, split: str) -> None:
        """Free a split and keep no more of it."""
        self._found.pop(split, None)

    @property
    def batches(self) -> dict[str, list[KeptBatch]]:
        """split -> its batches in order; splits that are not kept whole are missing."""
        return {
            split: [found[place] for place in range(len(found))]
            for split, found in self._found.items()
            if len(found) == self._batches[split]
        }


_lock = Lock()
_slot: tuple[str, Mapping[str, Sequence[KeptBatch]]] | None = None


def hand_over(key: str, batches: Mapping[str, Sequence[KeptBatch]]) -> None:
    """Leave batches (split -> all batches of it) for whoever asks with the same key. There is one place for it: what lay there is freed."""
    global _slot
    with _lock:
        _slot = (key, batches)


def discard() -> None:
    """Free what was handed over and not taken."""
    global _slot
    with _lock:
        _slot = None


def take_over(key: str) -> Mapping[str, Sequence[KeptBatch]] | None:
    """What was handed over under a key, which is then no longer held here; None if that is something else or nothing."""
    global _slot
    with _lock:
        if _slot is None or _slot[0] != key:
            return None
        found = _slot[1]
        _slot = None
        return found


def kept_key(config: Config, checkpoint: Checkpoint, dataset: Dataset, batch_tokens: int) -> str:
    """Identity of everything that kept batches depend on: checkpoint, rows and how they become tokens, sites, scoring, batches.

    Args:
        batch_tokens: the budget in use.
    """
    return hash_value(
        {
            "checkpoint": [checkpoint.fingerprint, checkpoint.dtype],
            "rows": [list(dataset.row), list(dataset.text), list(dataset.concept), list(dataset.split)],
            "dataset": config.dataset.model_dump(mode="json", exclude={"path"}),
            "sites": [str(site) for site in expand_sites(config.extract.sites, layer_count(checkpoint.config))],
            "pooling": resolve_pooling(config.extract.pooling, checkpoint.config),
            "scoring": config.evaluate.scoring,
            "batch_tokens": batch_tokens,
        }
    )
