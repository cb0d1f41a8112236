"""Which tokens a forward pass is looking at: real or padding, prompt or generated, in absolute positions.

Hooks inside a model see hidden states only. Under `generate` with a cache they see one token at a time, without it a growing sequence. The
tracker listens at the model's entrance and tells them where they are, so that a policy such as "the last prompt token" means the same token
in every way of decoding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.errors import UserError
from neuronlens.sites import family_of
from neuronlens.values import Pooling, Positions

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel


def resolve_pooling(pooling: Pooling, config: Any) -> Pooling:
    """`auto` as what it means for a model: the last token of decoders, the first of encoders, or all where their head reads all."""
    if pooling != "auto":
        return pooling
    if family_of(config).decoder:
        return "last"
    return "mean" if getattr(config, "classifier_pooling", None) == "mean" else "first"


# ways of decoding whose calls are not the prompt and then what was generated: candidates that may be taken back, parts of the prompt, a
# second sequence beside it, or somebody else's loop
_UNFOLLOWED = (
    *("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "prefill_chunk_size"),
    *("guidance_scale", "negative_prompt_ids", "penalty_alpha", "dola_layers", "constraints", "force_words_ids"),
    *("num_beam_groups", "custom_generate"),
)


class TokenTracker:
    """Context manager that follows the calls of a model.

    Attributes:
        real: [B, T] bool, the tokens of the current call that are no padding.
        columns: [T] their absolute positions, columns of the padded batch counted from the start of the prompt.
        prompt_width: columns of the prompt.
        first, last: [B] columns of the first and the last real prompt token.
        starts: whether the current call begins a prompt; the later steps of `generate` do not.
    """

    def __init__(self, model: PreTrainedModel, *, beginning: bool = False) -> None:
        """Follow a model.

        Args:
            beginning: whether calls hold the beginning of a prompt only, none of whose tokens is the last.
        """
        if isinstance(model, torch._dynamo.OptimizedModule):
            raise UserError(
                "hooks have no effect on a compiled model", cure="Pass the model itself and compile it afterwards."
            )
        self._model, self._beginning = model, beginning
        self._signature = inspect.signature(model.forward)
        self._generating = False
        self._handle: RemovableHandle | None = None
        self._generate: Callable[..., Any] | None = None
        self.real = torch.empty(0, 0, dtype=torch.bool)
        self.columns = torch.empty(0, dtype=torch.long)
        self.first = self.last = torch.empty(0, dtype=torch.long)
        self.prompt_width: int | None = None
        self.starts = True

    def __enter__(self) -> TokenTracker:
        self._handle = self._model.register_forward_pre_hook(self._before, with_kwargs=True)
        # A sequence that grows without a cache cannot be told from a new prompt by its tensors, so the start of generate is marked.
        # Trackers nest: each wraps what it found and puts that back.
        self._generate = self._model.__dict__.get("generate")
        generate = getattr(self._model, "generate", None)
        if generate is None:  # classifiers
            return self

        def tracked(*args: Any, **kwargs: Any) -> Any:
            kind: Any = type(self._model)
            self._check_followed(inspect.signature(kind.generate).bind_partial(self._model, *args, **kwargs))
            self._generating, self.prompt_width = True, None
            try:
                return generate(*args, **kwargs)
            finally:
                self._generating, self.prompt_width = False, None

        self._model.__dict__["generate"] = tracked
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()
        if self._generate is None:
            self._model.__dict__.pop("generate", None)
        else:
            self._model.__dict__["generate"] = self._generate

    def where(self, positions: Positions, pooling: Pooling) -> torch.Tensor:
        """[B, T] bool, the tokens of the current call that a position policy names.

        Args:
            positions: `all` real tokens, those of the `prompt`, the `generated` ones, the `last` real prompt token, or the `pooled` ones.
            pooling: what `pooled` means; with mean or max every real prompt token counts.
        """
        if positions == "pooled":
            positions = "last" if pooling == "last" else "prompt"
            if pooling == "first":
                return self.columns == self.first[:, None]
        if positions == "last":
            return self.columns == self.last[:, None]
        if positions == "prompt":
            return self.real & (self.columns < (self.prompt_width or 0))
        if positions == "generated":
            return self.real & (self.columns >= (self.prompt_width or 0))
        return self.real

    def _check_followed(self, call: inspect.BoundArguments) -> None:
        """Refuse ways of decoding in which a call's tokens cannot be placed."""
        given = {**call.arguments, **call.arguments.get("kwargs", {})}
        asked: Any = self._model
        configs = (given.get("generation_config"), asked.generation_config)
        if given.get("cache_implementation") == "paged":
            raise _no_such_cache()
        for name in _UNFOLLOWED:
            values = (given.get(name), *(getattr(config, name, None) for config in configs))
            value = next((value for value in values if value is not None), None)
            neutral = name in ("guidance_scale", "num_beam_groups") and value == 1
            if (isinstance(value, torch.Tensor) or value) and not neutral:
                raise UserError(
                    f"the tokens of a prompt cannot be followed under {name}",
                    cure=f"Leave {name} unset; greedy search, beams and sampling are followed.",
                )

    def _before(self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # binding takes as long as several hooks, and the library's own calls name every argument
        given = self._signature.bind_partial(*args, **kwargs).arguments if args else kwargs
        inputs = given.get("input_ids")
        if inputs is None:
            inputs = given["inputs_embeds"]
        rows, width = inputs.shape[:2]
        cache = given.get("past_key_values")
        if "cu_seq_lens_q" in given or (self._generating and getattr(cache, "is_compileable", False)):
            raise _no_such_cache()
        past = int(cache.get_seq_length()) if cache is not None else 0
        mask = given.get("attention_mask")
        if mask is None:
            mask = torch.ones(rows, past + width, dtype=torch.bool, device=inputs.device)
        elif not isinstance(mask, torch.Tensor) or mask.dim() != 2:
            raise UserError(
                "edits and captures need an attention mask of [batch, tokens]",
                cure="Pass the tokenizer's own mask, and generate with the default cache.",
            )
        self.see(mask, width, past)

    def see(self, mask: torch.Tensor, width: int, past: int = 0) -> None:
        """Take note of a call.

        Args:
            mask: [B, past + width] attention mask.
            width: columns of the call.
            past: columns that earlier calls have been through.
        """
        self.real = mask[:, -width:].bool()
        self.columns = torch.arange(past, past + width, device=mask.device)
        self.starts = past == 0 and not (self._generating and self.prompt_width is not None)
        # where the model has been through a beginning unseen, what is there when one first looks is the prompt
        if self.starts or self.prompt_width is None:
            self.prompt_width = past + width
            self.first = mask.int().argmax(dim=1)
            self.last = past + width - 1 - mask.int().flip(1).argmax(dim=1)
            if self._beginning:
                self.last = torch.full_like(self.last, -1)


def _no_such_cache() -> UserError:
    # transformers compiles the model around a static cache, where hooks have no effect; a paged one packs rows into one
    return UserError(
        "edits and captures cannot follow a static or paged cache",
        cure="Generate with the default one: leave cache_implementation unset.",
    )
