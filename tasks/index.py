"""audits/index.html, the index over all audits of a workspace, under the hands of many processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from neuronlens.artifact import write_whole
from neuronlens.errors import NeuronLensError
from neuronlens.report.index import Entry, added, entry, index_html, key_of, read
from tasks.around import Around, around
from tasks.audits import AUDITS, INDEX, open_existing
from tasks.lineage import timing
from tasks.surroundings import link, surroundings
from tasks.versioning import LOCKS


def put_in_index(found: Around, root: Path, *, anew: bool = False) -> bool:
    """Put an audit into the index, or refresh its entry; others' entries stay as they are.

    Args:
        root: of the workspace.
        anew: also where the entry is made of what is there now.

    Returns:
        Whether the index was damaged, and has been made of what was whole of it and of the audits that are stored.
    """
    file, locks = root / AUDITS / INDEX, root / ".dvc" / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "index.lock", thread_local=False):
        entries, whole = read(file.read_bytes().decode(errors="replace")) if file.exists() else ([], True)
        key = key_of(found.place.name)
        if whole and not anew and any((old.key, old.basis) == (key, found.place.basis) for old in entries):
            return False
        if not whole:
            entries = _with_stored(root, entries, but=key)
        write_whole(file, index_html(added(entries, _entry(found, root))))
    return not whole


def _with_stored(root: Path, entries: Sequence[Entry], *, but: str) -> list[Entry]:
    """Entries that are whole, and those of all other audits that are stored.

    Args:
        but: key of the one that is about to be written anyway.
    """
    found = [*entries]
    known = {each.key for each in entries} | {but}
    folders = [file.parents[1] for file in (root / AUDITS).glob("*/report/audit.json")]
    for folder in sorted(folders, key=lambda each: (str(timing(each / "report").get("finished", "")), each.name)):
        if key_of(folder.name) in known:
            continue
        with suppress(NeuronLensError):  # of one that cannot be read nothing can be told
            audit = open_existing(folder)
            found = added(found, _entry(around(surroundings(audit, audit.config.gates)), root))
    return found


def _entry(found: Around, root: Path) -> Entry:
    place, base = found.place, root / AUDITS
    finished = str(timing(place.audit.folder / "report").get("finished", ""))
    return entry(
        place.name,
        replace(found.numbers, link=link(place.page, base)),
        found.ruling,
        dataset=str(found.document["dataset"]["name"]),
        basis=place.basis,
        line="" if place.line is None else place.line.name,
        order=0 if place.decision is None else place.decision.order,
        day=finished[:10] or None,
        comparison=None if found.compared is None or place.comparison is None else link(place.comparison / INDEX, base),
    )
