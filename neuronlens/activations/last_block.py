"""The last block, of which a single token a row is needed.

Behind the last attention every token is treated by itself, and one of them decides. So the last block needs the keys and values of all
tokens, but the query, the output projection and the MLP of that token alone: the rest is cut away at the entrances of the stock modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from neuronlens.activations.capture import stand_in
from neuronlens.activations.readout import decides_by_one_token
from neuronlens.families import Attention
from neuronlens.sites import blocks_of, family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Cut = Callable[[torch.Tensor], torch.Tensor]


def can_follow_one_token(model: PreTrainedModel) -> bool:
    """Whether the last block may compute what one token of each row needs alone: one decides, and the block's attention is known."""
    return decides_by_one_token(model) and family_of(model.config).attention is not None


@contextlib.contextmanager
def one_token_of_last_block(model: PreTrainedModel, columns: torch.Tensor) -> Iterator[None]:
    """Within the block, the last block computes what one token of each row gives, and returns it at every column.

    The same up to the order of additions, which products of other shapes may choose differently.

    Args:
        model: of which `can_follow_one_token` holds.
        columns: [B] which token.
    """
    block = blocks_of(model)[1][-1]
    where = family_of(model.config).attention
    assert where is not None
    whole: list[torch.Tensor] = []

    def cut(hidden: torch.Tensor) -> torch.Tensor:
        return hidden[torch.arange(len(hidden), device=hidden.device), columns.to(hidden.device)][:, None]

    def enter(
        _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden, *others = args or (kwargs.pop("hidden_states"),)
        whole[:] = [hidden]
        return (cut(hidden), *others), kwargs

    def put_back(
        _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs.pop("hidden_states", None)
        return (whole[0], *args[1:]), kwargs

    def cut_input(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (cut(args[0]), *args[1:])

    def leave(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        length = whole[0].shape[1]
        whole.clear()
        if isinstance(output, tuple):
            return (output[0].expand(-1, length, -1), *output[1:])
        return output.expand(-1, length, -1)

    with contextlib.ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(block.get_submodule(where.entrance).register_forward_pre_hook(put_back, with_kwargs=True).remove)
        stack.callback(block.get_submodule(where.out).register_forward_pre_hook(cut_input).remove)
        stack.callback(block.register_forward_hook(leave).remove)
        if where.query is not None:
            stack.enter_context(_one_query(block, where, cut))
        yield


@contextlib.contextmanager
def _one_query(block: torch.nn.Module, where: Attention, cut: Cut) -> Iterator[None]:
    """Within the block, queries are made of one token a row and stand at every column, where the attention looks for them."""
    assert where.query is not None
    projection: Any = block.get_submodule(where.query)
    forward: Cut = projection.forward

    def alone(hidden: torch.Tensor) -> torch.Tensor:
        return forward(cut(hidden)).expand(-1, hidden.shape[1], -1)

    def first_third(hidden: torch.Tensor) -> torch.Tensor:
        weight, bias = projection.weight, projection.bias  # of a Conv1D: [D, 3 D]
        if weight.is_meta:  # put aside, and in memory only while the module itself runs
            return forward(hidden)
        third = weight.shape[1] // 3
        query = torch.nn.functional.linear(cut(hidden), weight[:, :third].T, bias[:third])
        others = torch.nn.functional.linear(hidden, weight[:, third:].T, bias[third:])
        return torch.cat([query.expand(-1, hidden.shape[1], -1), others], dim=-1)

    with stand_in(projection, first_third if where.query_first else alone):
        yield
