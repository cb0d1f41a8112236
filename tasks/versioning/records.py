"""One stage as DVC knows it: what dvc.lock says of it, what differs from that, and putting it right.

These are DVC's own calls, some of which it does not promise to keep; the tests of this room say when one of them has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronlens.artifact import write_whole
from neuronlens.stages import flat
from tasks import pipeline
from tasks.versioning.words import MARKERS

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


def load(repo: Repo, address: str, written: Mapping[str, Mapping[str, Any]] | None = None) -> PipelineStage:
    """A stage, and what dvc.lock says of it.

    A dvc.lock that somebody was killed over while he wrote it says nothing: it is set aside, and the artifacts and the cache know what it
    said. One with the marks of a merge conflict is left to whoever merges.

    Args:
        written: see `Workspace.look`.
    """
    from dvc.utils.serialize import ParseError
    from dvc.utils.strictyaml import YAMLValidationError

    try:
        return _load(repo, address, written or {})
    except (ParseError, YAMLValidationError):
        lock = Path(repo.root_dir, address.rpartition(":")[0]).with_suffix(".lock")
        if not _cut_short(repo, lock):
            raise
        lock.replace(lock.with_name(f"{lock.name}.broken"))
        return _load(repo, address, written or {})


def _load(repo: Repo, address: str, written: Mapping[str, Mapping[str, Any]]) -> PipelineStage:
    file, _, name = address.rpartition(":")
    path = str(Path(repo.root_dir) / file)
    if file not in written:
        stage: PipelineStage = repo.stage.load_one(path=path, name=name)
    else:
        from dvc.dvcfile import ProjectFile
        from dvc.stage.loader import StageLoader

        lying = ProjectFile(repo, path, verify=False)
        locked = lying._lockfile.load().get("stages", {}).get(name)
        stage = StageLoader.load_stage(lying, name, written[file]["stages"][name], locked)
    for dep in stage.deps:
        if dep.def_path in written:  # all that DVC asks of parameters goes through this call
            values = written[dep.def_path]
            dep.read_params = lambda values=values, dep=dep, **_: _chosen(values, dep.params)
    return stage


def _cut_short(repo: Repo, lock: Path) -> bool:
    """Whether it is this dvc.lock that cannot be read, for another reason than a merge."""
    from dvc.dvcfile import Lockfile
    from dvc.utils.serialize import ParseError
    from dvc.utils.strictyaml import YAMLValidationError

    if not lock.is_file() or MARKERS.search(lock.read_text(encoding="utf-8", errors="replace")):
        return False
    try:
        Lockfile(repo, str(lock)).load()
    except (ParseError, YAMLValidationError):
        return True
    return False


def forget_a_half_list_of_locks(repo: Repo) -> None:
    """Remove DVC's list of who is at work on what, if somebody was killed over it while he wrote it: it can be read by nobody."""
    from dvc.fs import localfs
    from dvc.rwlock import RWLOCK_FILE, RWLockFileCorruptedError, _edit_rwlock

    try:
        with _edit_rwlock(repo.tmp_dir, localfs, repo.config["core"].get("hardlink_lock", False)):
            pass
    except RWLockFileCorruptedError:
        Path(repo.tmp_dir, RWLOCK_FILE).unlink(missing_ok=True)


def create_stage_of(repo: Repo, known: Mapping[str, Any], wdir: str | None) -> PipelineStage:
    """A stage as the run-cache remembers it. DVC's own way of making one works in the root as the current folder alone."""
    from dvc.stage import PipelineStage, create_stage
    from dvc.stage.loader import StageLoader

    file = str(Path(repo.root_dir) / "dvc.yaml")
    outs = [out["path"] for out in known["outs"]]
    stage: PipelineStage = create_stage(PipelineStage, repo=repo, path=file, cmd=known["cmd"], wdir=wdir, outs=outs)
    StageLoader.fill_from_lock(stage, known)
    return stage


def _chosen(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """dotted key -> value of some keys, as DVC reads them from a file."""
    found = {}
    for key in keys:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def checked_out(repo: Repo, address: str, *, pull: bool) -> bool:
    """Put in place, and record, what dvc.lock or else the run-cache names as a stage's result, if its files are to be had.

    Args:
        pull: fetch them, too.
    """
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    for believe_lock in (True, False):
        # a stage that has been asked once knows new dependencies beside old outputs, and would take these for its own: hence a fresh one
        stage = load(repo, address)
        if not believe_lock:
            for out in stage.outs:
                out.hash_info = HashInfo()
        try:
            _restore(repo, stage, pull=pull)
        except RunCacheNotFoundError:
            continue
        record(stage)
        return True
    return False


def _restore(repo: Repo, stage: PipelineStage, *, pull: bool) -> None:
    from dvc.exceptions import ConfirmRemoveError

    before = [(out, out.hash_info) for out in stage.outs]
    deps = [(dep, dep.hash_info) for dep in stage.deps]
    try:
        repo.stage_cache.restore(stage, pull=pull)
    except ConfirmRemoveError:  # what lies there is in no cache: somebody's own changes to an artifact
        for item, known in (*before, *deps):
            item.hash_info = known
        stage.remove_outs(force=True)
        repo.stage_cache.restore(stage, pull=pull)


def record(stage: PipelineStage) -> None:
    """Put a stage's outputs into the cache, and what they came from into dvc.lock and the run-cache."""
    stage.save()
    stage.commit()
    _dump(stage)


def _dump(stage: PipelineStage) -> None:
    """Put a stage into dvc.lock, which appears whole: DVC itself empties the file and then fills it."""
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    lock = Path(stage.dvcfile._lockfile.path)
    known = parse_yaml_for_update(lock.read_text(encoding="utf-8"), str(lock)) if lock.exists() else {}
    known = known or {"schema": "2.0"}
    known.setdefault("stages", {}).update(to_lockfile(stage))
    write_whole(lock, dumps_yaml(known))


def hashes(stage: PipelineStage) -> list[tuple[str, Any]]:
    """(path, content) of what a stage reads, as it was saved last."""
    return [(dep.def_path, dep.hash_info.value) for dep in stage.deps]


def why(stage: PipelineStage, coming: Mapping[str, Any] | None = None) -> str | None:
    """What differs between the workspace and dvc.lock, in words; None where nothing does.

    Args:
        coming: path -> the output that is going to lie there.
    """
    if not any(out.hash_info for out in stage.outs):
        return "not there yet"
    found = ["its command changed"] if stage.changed_stage() else []
    for dep in stage.deps:
        if coming and dep.fs_path in coming:
            if dep.hash_info != coming[dep.fs_path].hash_info:
                found.append(f"{_short(dep)} changed")
            continue
        if hasattr(dep, "read_params"):
            found += _params_changed(dep)
        else:
            found += [f"{_short(dep)} {_INPUTS[told]}" for told in dep.status().values()]
    if found:
        return ", ".join(dict.fromkeys(found))
    states = {state for out in stage.outs for state in out.status().values()}
    return next((words for state, words in _OUTPUTS.items() if state in states), None)


_INPUTS = {"deleted": "missing", "modified": "changed", "new": "changed"}
_OUTPUTS = {
    "deleted": "its files are gone",
    "modified": "its files are not what they were when they were written",
    "not in cache": "its files are not in the cache",
}


def _params_changed(dep: Any) -> list[str]:
    """`key old -> new` of the parameters of a file that differ."""
    old, new = dict(flat(dep.hash_info.value or {})), dict(flat(dep.read_params()))
    found = []
    for key in sorted(old | new):
        if old.get(key) == new.get(key):
            continue
        section, _, name = key.rpartition(".")
        if section == pipeline.IDENTITY:
            found.append(f"{name} changed")
        elif section == pipeline.METHODS or dep.def_path.endswith(".py"):
            found.append(f"the method of {name.lower()} changed")
        else:
            found.append(f"{key} {old.get(key)} -> {new.get(key)}")
    return found


def _short(dep: Any) -> str:
    return Path(dep.def_path).name


def remembered(repo: Repo, stage: PipelineStage, coming: Mapping[str, Any]) -> list[Any]:
    """Outputs that the run-cache has for what a stage is going to read; empty where it knows none, or their files are not here."""
    for dep in stage.deps:
        if dep.fs_path in coming:
            dep.hash_info, dep.meta = coming[dep.fs_path].hash_info, coming[dep.fs_path].meta
            dep.get_hash = partial(getattr, dep, "hash_info")  # the run-cache asks for it, and nothing lies there yet
        elif hasattr(dep, "read_params"):
            dep.hash_info = dep.get_hash()
        elif dep.exists:
            dep.save()
        else:
            return []
    known = repo.stage_cache._load(stage)
    if not known:
        return []
    found = repo.stage_cache._create_stage(known, wdir=stage.wdir)
    return list(found.outs) if found.outs_cached() else []
