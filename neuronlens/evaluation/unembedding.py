"""The unembedding: the matrix that turns the normed vector of a token into logits, and what the model does to those.

Where a model's head is a plain linear map, perhaps with a soft cap, its logits can be had for a block of the vocabulary at a time. Whether
it is, is not taken from the family but tried on the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from neuronlens.activations.readout import only_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

_TRIED_TOKENS = 4


def unembedded_vectors(model: PreTrainedModel, forward: Callable[[], Any]) -> torch.Tensor:
    """[B, T, D] what enters the unembedding in a forward call, which itself is left next to nothing to do."""
    entered: list[torch.Tensor] = []

    def cut(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        entered.append(args[0])
        return args[0][:1, :1], *args[1:]

    handle = model.get_output_embeddings().register_forward_pre_hook(cut)
    try:
        with only_tokens(model, (0,)):
            forward()
    finally:
        handle.remove()
    return entered[-1]


@dataclass(frozen=True)
class Unembedding:
    """logits = cap * tanh((weight @ normed + bias) / cap), where there is a cap.

    Attributes:
        weight: [V, D].
        bias: [V] or None.
        cap: bound of the logits, or None.
        norm_weight, norm_bias: [D] gain and shift of the final LayerNorm; zeros where the final norm only scales (RMSNorm).
        norm_logits: [V, 2] what `norm_bias`, with the bias of the unembedding, and `norm_weight` are as logits. An edit that moves the mean
            of a token's vector moves its logits along them.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    cap: float | None
    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    norm_logits: torch.Tensor

    @classmethod
    def of(cls, model: PreTrainedModel) -> Unembedding | None:
        """The unembedding of a language model; None where its head is something else, found out on a few tokens."""
        head = model.get_output_embeddings()
        devices = set(getattr(model, "hf_device_map", {}).values())
        if (
            type(head) is not nn.Linear or len(devices) > 1
        ):  # what lies on several devices is left to the model's own code
            return None
        weight = head.weight
        norms = [module for module in model.base_model.children() if type(module) is nn.LayerNorm]
        gain, shift = (norms[-1].weight, norms[-1].bias) if norms else (None, None)
        norm_weight, norm_bias = (
            weight.new_zeros(weight.shape[1]) if part is None else part.detach().to(weight) for part in (gain, shift)
        )
        rows = torch.stack([norm_bias, norm_weight], dim=1)
        norm_logits = weight @ rows
        if head.bias is not None:
            norm_logits[:, 0] += head.bias
        cap = getattr(model.config, "final_logit_softcapping", None)
        found = cls(weight, head.bias, None if cap is None else float(cap), norm_weight, norm_bias, norm_logits)
        return found if found._gives_the_logits_of(model) else None

    def _gives_the_logits_of(self, model: PreTrainedModel) -> bool:
        ids = torch.arange(min(_TRIED_TOKENS, len(self.weight)), device=model.device)[None]
        normed: list[torch.Tensor] = []
        handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: normed.append(args[0]))
        try:
            mask = torch.ones_like(ids)
            logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()
        finally:
            handle.remove()
        own = self.capped(self.linear(normed[-1][0]).float())
        if own.shape != logits.shape:
            return False
        tolerance = max(1e-5, 4 * torch.finfo(self.weight.dtype).eps) * float(logits.abs().max())
        return bool(((own - logits).abs() <= tolerance).all())

    @property
    def vocabulary(self) -> int:
        """V."""
        return len(self.weight)

    def linear(self, normed: torch.Tensor, block: slice = slice(None), out: torch.Tensor | None = None) -> torch.Tensor:
        """[N, V'] logits before any cap, of normed vectors [N, D] and a block of the vocabulary, in the dtype of the weight.

        Args:
            out: [N, V'] to be written to and returned.
        """
        columns = self.weight[block].T
        if self.bias is None:
            return torch.mm(normed, columns, out=out)
        return torch.addmm(self.bias[block], normed, columns, out=out)

    def columns(self, block: slice, out: torch.Tensor) -> torch.Tensor:
        """[D + 2, V'] columns of the weight and of `norm_logits` for a block of the vocabulary, in the memory of `out`."""
        out[:-2].copy_(self.weight[block].T)
        out[-2:].copy_(self.norm_logits[block].T)
        return out

    def capped(self, logits: torch.Tensor) -> torch.Tensor:
        """The final logits, in place of the linear ones."""
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)
