"""Capture: forward hooks that pool the activations of a site on the spot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from neuronlens.activations.tokens import TokenTracker, resolve_pooling
from neuronlens.autoencoder import Autoencoder
from neuronlens.errors import NeuronLensError
from neuronlens.sites import Module, Site, resolve
from neuronlens.values import Pooling

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel


Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attached:
    """Hooks of a site."""

    handles: tuple[RemovableHandle, ...]

    def remove(self) -> None:
        """Take them off the model."""
        for handle in self.handles:
            handle.remove()


def attach(module: Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Attached:
    """The one place that hooks a site: `change` sees the activations [B, T, D] and returns new ones, or None to leave them.

    Blocks return a tensor or a tuple led by it, by release and family; both are rebuilt as they came.
    """
    rows: list[int] = []  # of the batch that the block is at

    def in_rows(hidden: torch.Tensor) -> torch.Tensor | None:
        if hidden.dim() != 2 or not rows:
            return change(hidden)
        new = change(hidden.unflatten(0, (rows[0], -1)))
        return None if new is None else new.flatten(0, 1)

    def on_input(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        new = in_rows(args[0])
        return None if new is None else (new, *args[1:])

    def on_output(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = in_rows(output[0])
            return None if new is None else (new, *output[1:])
        return in_rows(output)

    def count_rows(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows[:] = [len(args[0] if args else kwargs["hidden_states"])]

    handles = []
    if module.block is not None:
        handles.append(module.block.register_forward_pre_hook(count_rows, with_kwargs=True))
    if module.reads_input:
        handles.append(module.module.register_forward_pre_hook(on_input))
    else:
        handles.append(module.module.register_forward_hook(on_output))
    return Attached(tuple(handles))


@contextlib.contextmanager
def stand_in(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the block, a module computes what `forward` says. Its hooks stay."""
    # an instance attribute shadows the class's forward; __call__ and with it the hooks stay. accelerate has put its own there where a model
    # lies on several devices
    found = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if found is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = found


class Captured(dict[Site, torch.Tensor]):
    """Pooled activations [B, D] of the latest forward call, per site, in the model's dtype.

    Attributes:
        position: [B] column that was read, -1 where all were pooled.
        wanted: [n] rows and [n] columns of single tokens that the coming forward calls read besides; None for none. Set by the caller.
        tokens: site -> [n, D] activations of those of the latest forward call, as empty as `wanted`.
        calls: how often each site's hook has fired.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self.position = torch.empty(0, dtype=torch.long)
        self.wanted: tuple[torch.Tensor, torch.Tensor] | None = None
        self.tokens: dict[Site, torch.Tensor] = {}
        self.calls = dict.fromkeys(sites, 0)


@contextlib.contextmanager
def capture(model: PreTrainedModel, sites: Sequence[Site | str], pooling: Pooling = "auto") -> Iterator[Captured]:
    """Read sites during the forward calls inside the block.

    Values are copies, never views that would keep a layer's whole output alive. An edit opened before the capture is seen by it.

    Args:
        sites: such as `resid_post.3`.
        pooling: which real token stands for a row, or `mean` / `max` over all of them; taken from the attention mask.

    Raises:
        SiteError: a site resolves to nothing.
        NeuronLensError: a hook's width is not the config's, or it did not fire once per forward call.
    """
    wanted = [Site.parse(site) if isinstance(site, str) else site for site in sites]
    how = resolve_pooling(pooling, model.config)
    captured = Captured(wanted)
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(TokenTracker(model))

        def reader(site: Site, module: Module) -> Callable[[torch.Tensor], None]:
            # single tokens are chosen first, as to encode all of them takes as many times longer
            before, behind = _encoders(module.autoencoder, first=how in ("mean", "max"))

            def read(hidden: torch.Tensor) -> None:
                if hidden.dim() != 3 or hidden.shape[-1] != module.width:
                    raise NeuronLensError(
                        f"site {site} gave shape {tuple(hidden.shape)}, the config says [batch, tokens, {module.width}]"
                    )
                if tracker.starts:  # behind the prompt, `generate` with a cache shows single tokens
                    seen = before(hidden.detach())
                    pooled, captured.position = pool(seen, tracker, how)
                    captured[site] = behind(pooled)
                    if captured.wanted is None:
                        captured.tokens.pop(site, None)
                    else:
                        row, column = captured.wanted
                        captured.tokens[site] = behind(seen[row.to(hidden.device), column.to(hidden.device)])
                captured.calls[site] += 1

            return read

        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        for site in wanted:
            module = resolve(model, site)
            stack.callback(attach(module, reader(site, module)).remove)
        stack.callback(model.register_forward_hook(count).remove)
        yield captured
        for site, fired in captured.calls.items():
            if fired != calls:
                raise NeuronLensError(f"the hook of site {site} fired {fired} times in {calls} forward calls")


def _encoders(autoencoder: Autoencoder | None, *, first: bool) -> tuple[Encode, Encode]:
    """What activations go through before they are pooled, and behind it.

    Args:
        first: whether latents are what is pooled.
    """

    def same(values: torch.Tensor) -> torch.Tensor:
        return values

    def encode(values: torch.Tensor) -> torch.Tensor:
        assert autoencoder is not None
        return autoencoder.to(values.device).encode(values)

    if autoencoder is None:
        return same, same
    return (encode, same) if first else (same, encode)


def pool(hidden: torch.Tensor, tracker: TokenTracker, how: Pooling) -> tuple[torch.Tensor, torch.Tensor]:
    """One vector per row.

    Args:
        hidden: [B, T, D]; [B, 1, D] of a block that has followed the wanted token alone.
        how: `first`, `last`, `mean` or `max`, over real tokens.

    Returns:
        [B, D] values, a copy, and [B] the position read (-1 for mean and max).
    """
    if how in ("first", "last"):
        position = tracker.first if how == "first" else tracker.last
        rows = torch.arange(len(hidden), device=hidden.device)
        column = position if hidden.shape[1] > 1 else torch.zeros_like(position)
        return hidden[rows, column.to(hidden.device)], position  # indexing by tensors copies
    real = tracker.real.to(hidden.device)[:, :, None]
    everywhere = torch.full((len(hidden),), -1, dtype=torch.long)
    if how == "mean":
        # float32 sums whatever the dtype: a mean of bfloat16 values reduced in bfloat16 is off in the second digit
        total = hidden.float().masked_fill(~real, 0).sum(dim=1)
        return (total / real.sum(dim=1)).to(hidden.dtype), everywhere
    return hidden.masked_fill(~real, float("-inf")).amax(dim=1), everywhere


class Leaving:
    """Values on their way to main memory. An accelerator goes on with its next batch meanwhile.

    Sites of one shape travel together, in the model's dtype.
    """

    def __init__(self, found: Mapping[Site, torch.Tensor]) -> None:
        """Send them off.

        Args:
            found: [B, D] per site.
        """
        self._order = tuple(found)
        alike: dict[tuple[torch.Size, torch.device], list[Site]] = {}
        for site, values in found.items():
            alike.setdefault((values.shape, values.device), []).append(site)
        self._sent = [(sites, sent(torch.stack([found[site] for site in sites]))) for sites in alike.values()]

    def arrived(self) -> dict[Site, npt.NDArray[np.float32]]:
        """The same values in main memory as float32, [B, D] per site; waits for them."""
        host: dict[Site, npt.NDArray[np.float32]] = {}
        for sites, (values, wait) in self._sent:
            wait()
            host |= zip(sites, values.float().numpy(), strict=True)
        return {site: host[site] for site in self._order}


def sent(values: torch.Tensor) -> tuple[torch.Tensor, Callable[[], None]]:
    """A tensor in main memory, and what to call before it is looked at.

    From a CUDA card it goes by a stream of its own into pinned memory: a plain copy would wait for all that the card has been told to do,
    and keep it idle until it is told more.
    """
    if values.device.type != "cuda":
        return values.cpu(), lambda: None
    side = _side_stream(values.device)
    side.wait_stream(torch.cuda.current_stream(values.device))
    with torch.cuda.stream(side):
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        there = torch.cuda.Event()
        there.record(side)
    values.record_stream(side)  # its memory is not given to others before the copy is done
    return host, there.synchronize


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def on_host(found: Mapping[Site, torch.Tensor]) -> dict[Site, npt.NDArray[np.float32]]:
    """Values [B, D] per site in main memory as float32, now."""
    return Leaving(found).arrived()
