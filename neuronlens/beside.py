"""What is known of an object that has no room for it, for as long as the object lives."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """Values beside objects, found by the objects themselves: configs of transformers compare by content and have no hash."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref[Any], T]] = {}

    def get(self, owner: Any) -> T | None:
        """What lies beside an object; None where nothing does."""
        held = self._held.get(id(owner))
        return held[1] if held is not None and held[0]() is owner else None

    def put(self, owner: Any, value: T) -> T:
        """Lay a value beside an object, in the place of what lay there."""
        key = id(owner)
        self._held[key] = weakref.ref(owner, lambda _: self._held.pop(key, None)), value
        return value
