"""A model as lm-evaluation-harness asks it, so that an edit knows where the prompt of each request ends.

The harness's own model scores a context and its continuation in one call, padded on the right without a mask. Nothing in such a call says
which token is the last of the prompt, and padding passes for text. Here the contexts of a batch are a call of their own, padded on the
left, and the continuations go on from its cache, as in `generate`: every position policy means what it means there.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from neuronlens.checkpoint import Checkpoint
from neuronlens.encoding import longest_input
from neuronlens.errors import UserError

Request = tuple[Any, list[int], list[int]]
Answer = tuple[float, bool]
Row = tuple[tuple[int, ...], tuple[int, ...]]  # what the model reads of a context and of its continuation


class HarnessModel(HFLM):  # type: ignore[misc]  # lm-eval ships no types, so its class is Any
    """A checkpoint's model, edited where somebody edits it."""

    def __init__(self, checkpoint: Checkpoint, batch_size: int, *, whole_texts: bool) -> None:
        """Wrap it.

        Args:
            batch_size: requests a call.
            whole_texts: whether texts without a prompt may be scored.
        """
        super().__init__(
            pretrained=checkpoint.model,
            tokenizer=copy.deepcopy(checkpoint.tokenizer),  # it is given a padding token where it has none
            batch_size=batch_size,
            max_length=min(longest_input(checkpoint), int(min(checkpoint.tokenizer.model_max_length, 1 << 30))),
        )
        self._whole_texts = whole_texts
        self._takes = inspect.signature(checkpoint.model.forward).parameters

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """The harness's own, for edits of all tokens: others would depend on where it cuts a text into windows.

        Raises:
            UserError: an edit is of other tokens.
        """
        if not self._whole_texts:
            raise UserError(
                "a task scores whole texts, which have no prompt, and an edit is not of all tokens",
                cure="Leave the task away, or --positions all.",
            )
        return super().loglikelihood_rolling(requests, disable_tqdm)

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        """Of each request, the log probability of its continuation, and whether greedy decoding would have written it.

        Args:
            requests: key, tokens of the context and of the continuation; what is too long loses the beginning of its context.
        """
        # requests that differ in the last token alone, such as the letters of a question, are one row
        places: dict[Row, list[int]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            places.setdefault(self._split(context, continuation), []).append(place)
        rows = sorted(places, key=lambda row: (-len(row[0]) - len(row[1]), row))
        size = override_bs or int(self.batch_size)
        answers: dict[int, Answer] = {}
        with tqdm(total=len(requests), desc="Running loglikelihood requests", disable=disable_tqdm) as bar:
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                for row, found in zip(some, self._log_probabilities(some), strict=True):
                    for place in places[row]:
                        key, _, continuation = requests[place]
                        answers[place] = _answer(found, continuation)
                        if key is not None:
                            self.cache_hook.add_partial("loglikelihood", key, answers[place])
                    bar.update(len(places[row]))
        return [answers[place] for place in range(len(requests))]

    def _split(self, context: list[int], continuation: list[int]) -> Row:
        """What the model reads: the end of a context, and its continuation but for the last token."""
        room = self.max_length - (len(continuation) - 1)
        return tuple(context[-room:]), tuple(continuation[:-1])

    def _log_probabilities(self, rows: Sequence[Row]) -> Iterable[torch.Tensor]:
        """Of each row [continuation, vocabulary], of the tokens behind its context and each of its continuation."""
        contexts, continuations = ([row[part] for row in rows] for part in (0, 1))
        before, seen = self._padded(contexts, left=True)
        after, more = self._padded(continuations, left=False)
        first = self._call(before, seen, 0, logits_to_keep=1, use_cache=bool(after.shape[1]))
        logits = first.logits[:, -1:]
        if after.shape[1]:
            mask = torch.cat([seen, more], dim=1)
            behind = self._call(after, mask, before.shape[1], past_key_values=first.past_key_values)
            logits = torch.cat([logits, behind.logits], dim=1)
        for row, own in zip(continuations, logits, strict=True):
            yield own[: len(row) + 1].float().log_softmax(dim=-1)

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T] tokens, and the mask of those that are no padding."""
        width = max(map(len, rows))
        tokens, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
        for place, row in enumerate(rows):
            own = slice(width - len(row), width) if left else slice(len(row))
            tokens[place, own], mask[place, own] = torch.tensor(row, dtype=torch.long), 1
        return tokens.to(self.device), mask.to(self.device)

    def _call(self, tokens: torch.Tensor, mask: torch.Tensor, past: int, **how: Any) -> Any:
        """The model's answer to columns of a padded batch, with positions that count no padding."""
        how["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
        known = {name: value for name, value in how.items() if name in self._takes}
        return self.model(input_ids=tokens, attention_mask=mask, **known)


def _answer(found: torch.Tensor, continuation: Sequence[int]) -> Answer:
    """Of a continuation, from the log probabilities [continuation, vocabulary] in front of each of its tokens."""
    tokens = torch.tensor(continuation, device=found.device)
    return float(found.gather(1, tokens[:, None]).sum()), bool((found.argmax(dim=1) == tokens).all())
