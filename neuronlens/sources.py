"""What the parts of a stage are made from: parameters, and files and folders that may lie in other places where a part is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuronlens.config import Config

_OUTSIDE = {
    "checkpoint": ("checkpoint", "path"),
    "auxiliary": ("evaluate", "auxiliary"),
    "questions": ("evaluate", "questions"),
}


@dataclass(frozen=True)
class Sources:
    """Everything that a part is made from. It can be pickled.

    Attributes:
        config: what the audit is told.
        folders: name -> folder of a stage, or of a part that was made before.
    """

    config: Config
    folders: Mapping[str, Path]

    @property
    def places(self) -> dict[str, Path]:
        """Name -> file or folder of this machine, absolute. What comes from a hub is none: whoever needs it downloads it."""
        found = {name: folder.resolve() for name, folder in self.folders.items()}
        for name, (section, key) in _OUTSIDE.items():
            told = getattr(getattr(self.config, section), key)
            if told and (path := Path(told).expanduser()).exists():
                found[name] = path.resolve()
        return found

    def at(self, places: Mapping[str, Path]) -> Sources:
        """The same, lying elsewhere.

        Args:
            places: name, as in `places` -> where it lies.
        """
        config = self.config
        for name, (section, key) in _OUTSIDE.items():
            if name in places:
                told = getattr(config, section).model_copy(update={key: str(places[name])})
                config = config.model_copy(update={section: told})
        return Sources(config, {name: places.get(name, folder) for name, folder in self.folders.items()})
