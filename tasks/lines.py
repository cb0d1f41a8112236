"""Lines of checkpoints: what a training run, a registered model or a hub repository has brought forth, and what became of each.

A line is a folder of the workspace, lines/NAME, with what was decided about each checkpoint in record.jsonl: one JSON object a line, in the
order in which it was decided, only ever added to. What an audit found lies with the audit; here stands that it was made, what it was
compared with, and how the gates judged it. Killed at any point, the next run finds every decision that was written, and makes the others.
Beside it the file `source` says whose line it is: training runs in folders that are called alike are no line together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from neuronlens.artifact import hash_value, slug, write_whole
from neuronlens.errors import UserError, redacted
from tasks.versioning import LOCKS

LINES, RECORD, SOURCE = "lines", "record.jsonl", "source"
_GATE = {"verdict", "waived"}  # what everybody asks of a gate


@dataclass(frozen=True)
class Decision:
    """What became of a checkpoint.

    Attributes:
        checkpoint: its name within the line.
        order: its place there.
        key: of its bytes, or of the state of its files where they cannot be audited, and of what the audit was told.
        outcome: `audited`, `same` where the line holds an audit of the same bytes already, or `error`.
        audit: name of the audit's folder, None without one.
        fingerprint: of the checkpoint, None where it has none.
        before: name of the audit that it was compared with, None for the first.
        gates: as judged.
        error: one line, None where there was none.
        at: when, UTC.
    """

    checkpoint: str
    order: int
    key: str
    outcome: Literal["audited", "same", "error"]
    audit: str | None = None
    fingerprint: str | None = None
    before: str | None = None
    gates: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    at: str = ""

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The gates that failed and were not waived."""
        return [gate for gate in self.gates if gate["verdict"] == "FAIL" and gate["waived"] is None]


@dataclass(frozen=True)
class Line:
    """The decisions on the checkpoints of a source.

    Attributes:
        root: of the workspace.
        name: safe in a file name.
        source: a folder, `models:/NAME`, or a hub id.
    """

    root: Path
    name: str
    source: str

    @classmethod
    def of(cls, source: str, root: Path) -> Line:
        """The line of a source. Where another source has the name already, a hash of this one is added to it."""
        path = Path(source).expanduser()
        if path.is_dir():
            source, name = str(path.resolve()), path.resolve().name
        else:
            name = redacted(source).removeprefix("models:/").replace("/", "--")
        plain = cls(root, slug(name, "line"), source)
        own = cls(root, f"{plain.name}-{hash_value(plain._portable)[:8]}", source)
        return own if own._claimed or plain._claimed not in (None, plain._portable) else plain

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / LINES / self.name

    @property
    def _portable(self) -> str:
        """The source, as it is called by whoever has the workspace."""
        path = Path(self.source)
        inside = path.is_absolute() and path.is_relative_to(self.root.resolve())
        return path.relative_to(self.root.resolve()).as_posix() if inside else redacted(self.source)

    @property
    def _claimed(self) -> str | None:
        """The source that the name is kept for."""
        try:
            return (self.folder / SOURCE).read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None

    def claim(self) -> None:
        """Keep the name for this source."""
        if self._claimed is None:
            write_whole(self.folder / SOURCE, f"{self._portable}\n")

    def decisions(self) -> list[Decision]:
        """All that were written. A last line that a killed run has not finished is none."""
        return [*self._read()]

    def _read(self) -> Iterator[Decision]:
        file = self.folder / RECORD
        if not file.exists():
            return
        for number, text in enumerate(file.read_bytes().splitlines(keepends=True), 1):
            if not text.endswith(b"\n"):
                return
            try:
                yield _checked(Decision(**json.loads(text)))
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(
                    f"is no decision ({error})",
                    where=f"{file}:{number}",
                    cure="Take the line out; what it tells is decided anew.",
                ) from None

    def known(self) -> Mapping[tuple[str, str], Decision]:
        """Checkpoint and key -> the last decision on them."""
        return {(decision.checkpoint, decision.key): decision for decision in self._read()}

    def add(self, decision: Decision) -> None:
        """Write a decision: whole, or not at all."""
        file = self.folder / RECORD
        self.claim()
        text = json.dumps(asdict(decision), ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
        before = file.read_bytes() if file.exists() else b""
        if before and not before.endswith(b"\n"):  # what a killed run has not finished
            before = before[: before.rfind(b"\n") + 1]
        part = file.with_suffix(f".{os.getpid()}")
        part.write_bytes(before + text.encode())
        part.replace(file)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Nobody else watches it meanwhile.

        Raises:
            UserError: somebody does.
        """
        folder = self.root / ".dvc" / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"line-{self.name}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "is being watched by another process",
                where=self.source,
                cure="Leave it to that one, or end it first; neuronlens list shows what it has done.",
            ) from None
        try:
            yield
        finally:
            lock.release()


def _checked(decision: Decision) -> Decision:
    """A decision that was read.

    Raises:
        TypeError: a field of it is not what it has to be.
    """
    texts = (decision.audit, decision.fingerprint, decision.before, decision.error)
    known = isinstance(decision.order, int) and not isinstance(decision.order, bool) and abs(decision.order) < 1 << 63
    known &= all(isinstance(text, str) for text in (decision.checkpoint, decision.key, decision.at))
    known &= all(text is None or isinstance(text, str) for text in texts)
    known &= decision.outcome in ("audited", "same", "error")
    # the name of a folder, and never the way to one
    known &= all(text is None or slug(text, "-") == text for text in (decision.audit, decision.before))
    if (
        not known
        or not isinstance(decision.gates, list)
        or not all(isinstance(gate, dict) and {*gate} >= _GATE for gate in decision.gates)
    ):
        raise TypeError("one of its fields is not what it has to be")
    return decision


def lines_of(root: Path) -> list[str]:
    """Names of the lines of a workspace that have been watched."""
    return sorted(path.name for path in (root / LINES).glob("*") if (path / RECORD).is_file())
