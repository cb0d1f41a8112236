"""What is current, the bytes behind it, and sharing both: DVC, in process. This is the one module that imports it.

A stage's key is what its entry in dvc.lock holds: the content of what it reads, its parameters, its command. A stage is *current* when the
entry matches the workspace. Otherwise its result may be *restored*: DVC's run-cache remembers what equal keys gave before, here or, through
a remote, at a team-mate's. Otherwise it is *computed*, and recorded for everybody.

DVC's own locks are not made for many stages that end at once (entries of dvc.lock get lost among threads that share a `Repo`, calls fail
after three seconds among processes), hence a lock of ours in front of them. No lock of DVC's is held while a stage computes.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from neuronlens.errors import NeuronLensError, UserError, did_you_mean
from neuronlens.stages import flat
from tasks import pipeline

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

Outcome = Literal["current", "restored", "computed"]

_CONFIG = """\
[core]
    analytics = false
    autostage = false
    check_update = false
[cache]
    type = "reflink,hardlink,copy"
"""
_IGNORED_BY_GIT = "/config.local\n/tmp\n/cache\n"
# how long a stage took and when differs between runs that are equal in every byte that counts
_IGNORED_BY_DVC = "timing.json\n"
LOCKS = "tmp/neuronlens"
_GIVEN = "given"  # name of a remote that is known by its address alone
_MARKERS = re.compile(r"^(<{7}|={7}|>{7})", re.MULTILINE)

_threads = RLock()


class InputsChangedError(NeuronLensError):
    """What a stage reads was changed while it ran, so that its result belongs to neither state."""


@dataclass(frozen=True)
class Decision:
    """What became of a stage, or is going to.

    Attributes:
        address: file:name of the stage, as DVC writes it.
        outcome: how its result came about.
        reason: in words.
    """

    address: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Entry:
    """What dvc.lock says of a stage.

    Attributes:
        deps, outs: path -> md5 (a folder's ends in .dir).
        params: file -> key -> value.
    """

    deps: Mapping[str, str]
    outs: Mapping[str, str]
    params: Mapping[str, Mapping[str, Any]]


@dataclass
class Workspace:
    """A folder under DVC.

    Attributes:
        root: that holds .dvc.
        remote: name, address or folder of the remote that is asked and sent to; DVC's default where None.
    """

    root: Path
    remote: str | None = None
    _fetched: bool = field(default=False, init=False, repr=False)

    @classmethod
    def find(cls, start: Path) -> Workspace | None:
        """The workspace that a folder, which need not exist, lies in."""
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / ".dvc" / "config").is_file():
                return cls(folder)
        return None

    @classmethod
    def create(cls, root: Path) -> Workspace:
        """Make a folder a workspace. Nothing is staged in git, where there is one."""
        root = root.resolve()
        (root / ".dvc").mkdir(parents=True, exist_ok=True)
        for name, text in (
            (".dvcignore", _IGNORED_BY_DVC),
            (".dvc/.gitignore", _IGNORED_BY_GIT),
            (".dvc/config", _CONFIG),
        ):
            if not (root / name).exists():
                (root / name).write_text(text, encoding="utf-8")
        return cls(root)

    def ensure(
        self,
        address: str,
        compute: Callable[[], object],
        *,
        made: Callable[[], bool] = lambda: False,
        same: Callable[[], bool] = lambda: True,
        tidy: Callable[[], object] = lambda: None,
        force: bool = False,
        remote: bool = True,
    ) -> Decision:
        """Bring a stage up to date: nothing where it is current, else restored, else computed and recorded.

        Threads and processes may ask for the same stage at once: one computes, the others wait and then find it current.

        Args:
            address: such as `audits/a/dvc.yaml:fit`, relative to the root.
            compute: makes the stage's outputs; they appear whole or not at all.
            made: whether the outputs are there and are what `compute` would make, though dvc.lock knows nothing of it (its process ended
                between the two). They are recorded then, and not made again.
            tidy: removes what a run that was killed has left of the stage; called while nobody else is at it.
            same: whether the files that DVC reads parameters from still say what `compute` goes by.
            force: compute what is current, too.
            remote: look for the result in the remote, too, where one is configured.

        Raises:
            InputsChangedError: what the stage reads changed while it ran; nothing is recorded.
            UserError: DVC cannot go on, and what the user can do about it.
        """
        with self._alone(address):
            decision = self._ensure(address, compute, made, same, force=force, remote=remote)
            tidy()
            return decision

    def _ensure(
        self,
        address: str,
        compute: Callable[[], object],
        made: Callable[[], bool],
        same: Callable[[], bool],
        *,
        force: bool,
        remote: bool,
    ) -> Decision:
        with self._repo() as repo:
            _set_aside_a_half_lock(repo, address)
            stage = _load(repo, address)
            reason = "asked for" if force else _why(stage)
            if reason is None:
                return Decision(address, "current", "nothing it depends on has changed")
            _check_same(same, address)
            if not force:
                if made():
                    _record(stage)
                    return Decision(address, "current", "computed before, recorded now")
                source, trouble = self._restore(repo, address, remote=remote)
                if source is not None:
                    return Decision(address, "restored", f"{reason}; restored from {source}")
                reason = f"{reason}; {trouble}" if trouble else reason
            stage = _load(repo, address)
            stage.save_deps()
            before = _hashes(stage)
        compute()
        with self._repo() as repo:
            stage = _load(repo, address)
            stage.save_deps()
            if _hashes(stage) != before:
                raise InputsChangedError(f"what {address} reads changed while it ran; run the same command again")
            _check_same(same, address)
            _record(stage)
        return Decision(address, "computed", reason)

    def look(self, addresses: Sequence[str], written: Mapping[str, Mapping[str, Any]] | None = None) -> list[Decision]:
        """What `ensure` would do, stage by stage; nothing is changed, and no remote is asked.

        Args:
            addresses: in the order of the pipeline.
            written: file -> content of a dvc.yaml and of files of parameters, as if they had been written already.
        """
        found: list[Decision] = []
        coming: dict[str, Any] = {}  # path -> the output that will lie there when its stage has been restored
        unknown: dict[str, str] = {}  # path -> the stage that computes it anew
        with self._repo() as repo:
            for address in addresses:
                stage = _load(repo, address, written)
                after = sorted({unknown[dep.fs_path] for dep in stage.deps if dep.fs_path in unknown})
                reason = f"follows {', '.join(after)}" if after else _why(stage, coming)
                if reason is None:
                    found.append(Decision(address, "current", "nothing it depends on has changed"))
                    continue
                outs = [] if after else _remembered(repo, _load(repo, address, written), coming)
                if outs:
                    coming |= {out.fs_path: out for out in outs}
                    found.append(Decision(address, "restored", f"{reason}; the run-cache has it"))
                else:
                    unknown |= {out.fs_path: stage.name for out in stage.outs}
                    found.append(Decision(address, "computed", reason))
        return found

    def entries(self, addresses: Sequence[str]) -> dict[str, Entry | None]:
        """What dvc.lock says of some stages; None where it says nothing."""
        with self._repo() as repo:
            return {address: _entry(_load(repo, address)) for address in addresses}

    def check(self, addresses: Sequence[str]) -> dict[str, tuple[bool, str | None]]:
        """Whether each stage's output is the one that dvc.lock names, and the hash that it names; None where it names none."""
        found = {}
        with self._repo() as repo:
            for address in addresses:
                outs = _load(repo, address).outs
                md5 = ", ".join(out.hash_info.value for out in outs if out.hash_info) or None
                found[address] = md5 is not None and not any(out.workspace_status() for out in outs), md5
        return found

    def git_commit(self) -> str | None:
        """The commit that is checked out, with + behind it where tracked files differ from it; None outside git."""
        if not _in_git(self.root):
            return None
        from scmrepo.exceptions import SCMError

        with self._repo() as repo:
            try:
                return f"{repo.scm.get_rev()}{'+' if repo.scm.is_dirty(untracked_files=False) else ''}"
            except SCMError:  # nothing has been committed yet
                return None

    def push(self, files: Sequence[str] = ()) -> int:
        """Send what dvc.lock names, and the run-cache.

        Args:
            files: dvc.yaml files of the audits that are sent; all of the workspace unless told otherwise.

        Returns:
            How many files were sent.

        Raises:
            UserError: there is no remote, or it cannot be reached.
        """
        with self._repo() as repo, _reaching(repo):
            return int(repo.push(targets=self._targets(files), run_cache=True))

    def pull(self, files: Sequence[str] = ()) -> int:
        """Get what dvc.lock names, and the run-cache.

        Args:
            files: as of `push`.

        Returns:
            How many files came.

        Raises:
            UserError: there is no remote, it cannot be reached, or it lacks some of the files.
        """
        with self._repo() as repo, _reaching(repo):
            return int(repo.pull(targets=self._targets(files), run_cache=True)["stats"]["fetched"])

    def _targets(self, files: Sequence[str]) -> list[str] | None:
        return [str(self.root / file) for file in files] or None

    def _restore(self, repo: Repo, address: str, *, remote: bool) -> tuple[str | None, str | None]:
        """Put in place what an equal key gave before: where that was found, None if nowhere; and why a remote could not be asked."""
        if _checked_out(repo, address, pull=False):
            return "the run-cache", None
        name = _remote_name(repo) if remote else None
        if name is None:
            return None, None
        known = f"remote {repo.config['remote'].get(name, {}).get('url', name)}"
        try:
            if not self._fetched:  # once a run: what team-mates' stages gave. Their data come stage by stage.
                self._fetched = True
                repo.stage_cache.pull(None)
            found = _checked_out(repo, address, pull=True)
        except Exception as error:  # whatever a file system, a driver or a network may raise; the audit can do without
            return None, f"{known} cannot be asked ({_first_line(error)})"
        return (f"{known}" if found else None), None

    @contextmanager
    def _alone(self, address: str) -> Iterator[None]:
        """While a stage is looked at and computed, nobody else does."""
        folder = self.root / ".dvc" / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.lock", thread_local=False):
            yield

    def _config(self) -> dict[str, Any]:
        """What is laid on the workspace's own configuration."""
        core: dict[str, Any] = {} if _in_git(self.root) else {"no_scm": True}
        if self.remote is None:
            return {"core": core}
        if re.fullmatch(r"[\w-]+", self.remote):
            return {"core": core | {"remote": self.remote}}
        place = self.remote if "://" in self.remote else str(Path(self.remote).expanduser().resolve())
        return {"core": core | {"remote": _GIVEN}, "remote": {_GIVEN: {"url": place}}}

    @contextmanager
    def _repo(self) -> Iterator[Repo]:
        """DVC's view of the workspace, for one thread of one process at a time.

        Raises:
            UserError: what DVC stumbled over, in a line.
        """
        from dvc.repo import Repo, lock_repo
        from dvc.rwlock import RWLockFileCorruptedError

        logging.getLogger("dvc").setLevel(logging.ERROR)  # DVC tells of every file that it writes, and shows bars

        folder = self.root / ".dvc" / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        with _threads, FileLock(folder / "repo.lock", thread_local=False), _in_words(self.root):
            repo = Repo(str(self.root), config=self._config(), _wait_for_lock=True)
            repo.stage_cache._create_stage = lambda known, wdir=None: _create_stage(repo, known, wdir)
            try:
                with lock_repo(repo):
                    yield repo
            except RWLockFileCorruptedError:
                # somebody was killed while he wrote it; whoever else may be at work writes it anew
                (self.root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
                raise
            finally:
                repo.close()


def _load(repo: Repo, address: str, written: Mapping[str, Mapping[str, Any]] | None = None) -> PipelineStage:
    """A stage, and what dvc.lock says of it.

    Args:
        written: see `Workspace.look`.
    """
    file, _, name = address.rpartition(":")
    path, written = str(Path(repo.root_dir) / file), written or {}
    if file not in written:
        stage: PipelineStage = repo.stage.load_one(path=path, name=name)
    else:
        from dvc.dvcfile import ProjectFile
        from dvc.stage.loader import StageLoader

        lying = ProjectFile(repo, path, verify=False)
        locked = lying._lockfile.load().get("stages", {}).get(name)
        stage = StageLoader.load_stage(lying, name, written[file]["stages"][name], locked)
    for dep in stage.deps:
        if dep.def_path in written:
            values = written[dep.def_path]
            dep.read_params = lambda values=values, dep=dep, **_: _chosen(values, dep.params)
    return stage


def _set_aside_a_half_lock(repo: Repo, address: str) -> None:
    """Make nothing of a dvc.lock that somebody was killed over while he wrote it. The artifacts and the cache know what it said."""
    from dvc.utils.serialize import ParseError
    from dvc.utils.strictyaml import YAMLValidationError

    lock = Path(repo.root_dir, address.rpartition(":")[0]).with_suffix(".lock")
    try:
        _load(repo, address)
    except (ParseError, YAMLValidationError):
        if not lock.is_file() or _MARKERS.search(lock.read_text(encoding="utf-8", errors="replace")):
            raise
        lock.replace(lock.with_name(f"{lock.name}.broken"))


def _create_stage(repo: Repo, known: Mapping[str, Any], wdir: str | None) -> PipelineStage:
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


def _checked_out(repo: Repo, address: str, *, pull: bool) -> bool:
    """Put in place, and record, what dvc.lock or else the run-cache names as a stage's result, if its files are to be had.

    Args:
        pull: fetch them, too.
    """
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    for believe_lock in (True, False):
        # a stage that has been asked once knows new dependencies beside old outputs, and would take these for its own: hence a fresh one
        stage = _load(repo, address)
        if not believe_lock:
            for out in stage.outs:
                out.hash_info = HashInfo()
        try:
            _restore(repo, stage, pull=pull)
        except RunCacheNotFoundError:
            continue
        _record(stage)
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


def _record(stage: PipelineStage) -> None:
    """Put a stage's outputs into the cache, and what they came from into dvc.lock and the run-cache."""
    stage.save()
    stage.commit()
    stage.dump(update_pipeline=False)


def _hashes(stage: PipelineStage) -> list[tuple[str, Any]]:
    """(path, content) of what a stage reads, as it was saved last."""
    return [(dep.def_path, dep.hash_info.value) for dep in stage.deps]


def _check_same(same: Callable[[], bool], address: str) -> None:
    if not same():
        raise InputsChangedError(
            f"the parameters of {address} were changed by somebody else in the meantime; run the same command again"
        )


def _why(stage: PipelineStage, coming: Mapping[str, Any] | None = None) -> str | None:
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


def _remembered(repo: Repo, stage: PipelineStage, coming: Mapping[str, Any]) -> list[Any]:
    """Outputs that the run-cache has for what a stage is going to read; empty where it knows none, or their files are not here."""
    for dep in stage.deps:
        if dep.fs_path in coming:
            dep.hash_info, dep.meta = coming[dep.fs_path].hash_info, coming[dep.fs_path].meta
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


def _entry(stage: PipelineStage) -> Entry | None:
    from dvc.stage.utils import split_params_deps

    if not any(out.hash_info for out in stage.outs):
        return None
    params, deps = split_params_deps(stage)
    return Entry(
        {dep.def_path: dep.hash_info.value for dep in deps},
        {out.def_path: out.hash_info.value for out in stage.outs},
        {dep.def_path: dict(dep.hash_info.value or {}) for dep in params},
    )


def _remote_name(repo: Repo) -> str | None:
    name: str | None = repo.config["core"].get("remote")
    return name


def _in_git(root: Path) -> bool:
    return any((folder / ".git").exists() for folder in (root, *root.parents))


@contextmanager
def _reaching(repo: Repo) -> Iterator[None]:
    """What goes wrong on the way to a remote, in a line."""
    from dvc.exceptions import CheckoutError, DvcException

    name = _remote_name(repo)
    if name is None:
        raise UserError(
            "no remote is configured",
            where=".dvc/config",
            cure="Name one: --remote ADDRESS, remote.url in params.yaml, or dvc remote add -d team ADDRESS.",
        )
    known = repo.config["remote"]
    if name not in known:
        cure = did_you_mean(name, known) if known else f"Add it: dvc remote add {name} ADDRESS."
        raise UserError(f"no remote {name!r}", where=".dvc/config", cure=cure)
    try:
        yield
    except CheckoutError as error:
        raise UserError(
            f"remote {known[name].get('url')} lacks {len(error.target_infos)} of the files that dvc.lock names",
            cure="Whoever computed them can send them: neuronlens push.",
        ) from error
    except DvcException:
        raise
    except Exception as error:  # whatever a file system, a driver or a network may raise
        raise UserError(
            f"cannot be reached ({_first_line(error)})",
            where=f"remote {known[name].get('url')}",
            cure="Check its address, the network and your credentials; what is computed is kept.",
        ) from error


@contextmanager
def _in_words(root: Path) -> Iterator[None]:
    """DVC's complaints as a line that says what is wrong, and how to cure it."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import ParseError

    try:
        yield
    except ParseError as error:
        file = Path(error.path)
        where = file if file.is_absolute() else Path.cwd() / file
        conflict = where.is_file() and _MARKERS.search(where.read_text(encoding="utf-8", errors="replace"))
        if conflict:
            what, cure = (
                "holds the marks of a merge conflict",
                (
                    f"Keep either side, such as git checkout --ours {error.path}; what the other one names comes back from the cache."
                ),
            )
        else:
            what, cure = (
                f"cannot be read ({_first_line(error)})",
                "Put it right, or delete it: the cache remembers what it named.",
            )
        raise UserError(what, where=str(error.path), cure=cure) from error
    except DvcException as error:
        raise UserError(f"DVC: {_first_line(error)}", where=str(root)) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
