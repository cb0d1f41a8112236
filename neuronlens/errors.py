"""One hierarchy of errors. A user's mistake is one line: what, where, how to cure it. Anything else is a bug and keeps its traceback."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


class NeuronLensError(Exception):
    """Base of every error the library raises on purpose. Its text is one line that does nothing to a terminal and opens nothing.

    Attributes:
        exit_code: what the command line exits with (2: usage or configuration, 3: the run broke).
    """

    exit_code = 3

    def __init__(self, text: str = "") -> None:
        super().__init__(redacted(printable(" ".join(text.split()))))


class UserError(NeuronLensError):
    """Something the user can put right. The text is a single line that names the place and the cure."""

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, cure: str | None = None) -> None:
        self.what, self.where, self.cure = what, where, cure
        text = _cut(what)
        super().__init__((f"{_cut(where)}: {text}" if where else text) + (f". {cure}" if cure else ""))


class ConfigError(UserError):
    """A parameter is unknown or has a value outside its meaning."""


class DatasetError(UserError):
    """The labelled text cannot be read or cannot be audited."""


class CheckpointError(UserError):
    """The checkpoint cannot be read, is unsafe to load, or does not fit the dataset."""


class LensError(UserError):
    """A lens file cannot be used, or is of another model."""


class UnreachableError(UserError):
    """Something outside of this machine does not answer. What was computed is kept."""


class SiteError(UserError):
    """A site names no module of this model."""


class ArtifactError(NeuronLensError):
    """A stored artifact is damaged, or was written by a newer version."""


class InputsChangedError(NeuronLensError):
    """What a stage reads was changed while it ran, so that its result belongs to neither state."""


class NonFiniteActivationError(NeuronLensError):
    """An activation or a logit is NaN or infinite; statistics over it would be meaningless."""


class OutOfMemoryError(NeuronLensError):
    """Not even a single row fits into the memory of the device."""


# one slash is what a path makes of two
_CREDENTIALS = re.compile(r"(?i)(:/{1,2})[^/@\s]+:[^/@\s]*(?=@)|(?<=https)(:/{1,2})[^/@\s]+(?=@)")
_KEYS = re.compile(r"(?i)(?<=[?&])(\w*(?:sig|signature|token|secret|password|key)\w*)=[^&\s'\")]+")


def redacted(text: str) -> str:
    """A text without what addresses may carry: a name and password before the host, a token or signature behind it."""
    return _KEYS.sub(r"\1=***", _CREDENTIALS.sub(lambda found: f"{found[1] or found[2]}***", text))


def printable(text: str) -> str:
    """A text, which may quote a file, with what does something to a terminal spelt out, such as `\\x1b`."""
    return (
        text
        if text.isprintable()
        else "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    )


_LONGEST = 1000  # characters of a value, or of a place, that are told


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The cure for a misspelt name: the closest known one, or the list of all."""
    names = [str(name) for name in known]
    close = [name for name in names if name.casefold() == word.casefold()]
    close = close or get_close_matches(word, names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names)}."
