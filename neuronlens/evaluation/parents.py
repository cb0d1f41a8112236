"""Parents: from whose logits those under an edit follow by the least work, the unedited model's or those under another edit.

The edit of a concept's range and the edit of the same neurons as a whole differ in a few entries of every token, and concepts share many of
their neurons. So the logits under one of them are had from those under another, and those from the unedited ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neuronlens.evaluation.columns import update_work

_COMPARED = 16  # tokens
# Edits between an edit and the unedited model, itself included. Each adds a rounding, and keeps a block of logits in memory.
_MOST_STEPS = 3


def parents(
    places: Sequence[torch.Tensor], hidden: Sequence[torch.Tensor], touched: Sequence[torch.Tensor]
) -> list[int | None]:
    """For each edit another one that is nearer to it than the unedited model is; None where there is none.

    Args:
        places: [R] of each edit, which vectors it changes. Those that do not change the same are not compared.
        hidden: [R, D] of each, these vectors, edited.
        touched: [R, D] bool of each, what differs in them from the unedited ones.
    """
    found: list[int | None] = [None] * len(hidden)
    if not hidden or hidden[0].device.type != "cpu":  # elsewhere a product costs less than the search
        return found
    steps = [1] * len(hidden)
    # the edits of whole neurons come first, then those of their ranges
    order = sorted((i for i, part in enumerate(hidden) if len(part)), key=lambda i: -int(touched[i].sum()))
    for at, i in enumerate(order):
        least, few = update_work(touched[i]), slice(None, None, max(1, len(hidden[i]) // _COMPARED))
        for other in order[:at]:
            if steps[other] == _MOST_STEPS or not torch.equal(places[other], places[i]):
                continue
            work = update_work(hidden[i][few] != hidden[other][few])
            if work < least:
                least, found[i], steps[i] = work, other, steps[other] + 1
    return found


def depth_first(found: Sequence[int | None]) -> list[int]:
    """Every edit behind its parent, with its own children before the parent's next one.

    Args:
        found: the parent of each edit, or None.
    """
    children: dict[int | None, list[int]] = {}
    for i, parent in enumerate(found):
        children.setdefault(parent, []).append(i)
    order: list[int] = []
    waiting = children.get(None, [])[::-1]
    while waiting:
        order.append(waiting.pop())
        waiting += children.get(order[-1], [])[::-1]
    return order
