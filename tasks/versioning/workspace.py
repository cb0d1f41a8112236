"""What is current, the bytes behind it, and sharing both: DVC, in process.

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

from neuronlens.artifact import write_whole
from neuronlens.errors import InputsChangedError, redacted
from tasks.versioning.records import (
    checked_out,
    create_stage_of,
    forget_a_half_list_of_locks,
    hashes,
    load,
    record,
    remembered,
    why,
)
from tasks.versioning.words import first_line, in_words, reaching, remote_name

if TYPE_CHECKING:
    from dvc.repo import Repo

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

_threads = RLock()


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
                write_whole(root / name, text)
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
            stage = load(repo, address)
            reason = "asked for" if force else why(stage)
            if reason is None:
                return Decision(address, "current", "nothing it depends on has changed")
            _check_same(same, address)
            if not force:
                if made():
                    record(stage)
                    return Decision(address, "current", "computed before, recorded now")
                source, trouble = self._restore(repo, address, remote=remote)
                if source is not None:
                    return Decision(address, "restored", f"{reason}; restored from {source}")
                reason = f"{reason}; {trouble}" if trouble else reason
            stage = load(repo, address)
            stage.save_deps()
            before = hashes(stage)
        compute()
        with self._repo() as repo:
            stage = load(repo, address)
            stage.save_deps()
            if hashes(stage) != before:
                raise InputsChangedError(f"what {address} reads changed while it ran; run the same command again")
            _check_same(same, address)
            record(stage)
        return Decision(address, "computed", reason)

    def look(self, addresses: Sequence[str], written: Mapping[str, Mapping[str, Any]] | None = None) -> list[Decision]:
        """What `ensure` would do, stage by stage. Nothing is changed but that a half-written dvc.lock is set aside, and no remote is asked.

        Args:
            addresses: in the order of the pipeline.
            written: file -> content of a dvc.yaml and of files of parameters, as if they had been written already.
        """
        found: list[Decision] = []
        coming: dict[str, Any] = {}  # path -> the output that will lie there when its stage has been restored
        unknown: dict[str, str] = {}  # path -> the stage that computes it anew
        with self._repo() as repo:
            for address in addresses:
                stage = load(repo, address, written)
                after = sorted({unknown[dep.fs_path] for dep in stage.deps if dep.fs_path in unknown})
                reason = f"follows {', '.join(after)}" if after else why(stage, coming)
                if reason is None:
                    found.append(Decision(address, "current", "nothing it depends on has changed"))
                    continue
                outs = [] if after else remembered(repo, load(repo, address, written), coming)
                if outs:
                    coming |= {out.fs_path: out for out in outs}
                    found.append(Decision(address, "restored", f"{reason}; the run-cache has it"))
                else:
                    unknown |= {out.fs_path: stage.name for out in stage.outs}
                    found.append(Decision(address, "computed", reason))
        return found

    def outputs(self, addresses: Sequence[str]) -> dict[str, str]:
        """path -> md5 (a folder's ends in .dir) of what dvc.lock says that some stages wrote."""
        with self._repo() as repo:
            outs = [out for address in addresses for out in load(repo, address).outs]
            return {out.def_path: out.hash_info.value for out in outs if out.hash_info}

    def check(self, addresses: Sequence[str]) -> dict[str, tuple[bool, str | None]]:
        """Whether each stage's output is the one that dvc.lock names, and the hash that it names; None where it names none."""
        found = {}
        with self._repo() as repo:
            for address in addresses:
                outs = load(repo, address).outs
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

    def keep_out_of_git(self, names: Sequence[str]) -> None:
        """Add files and folders at the root to .gitignore, where there is git and it does not ignore them already."""
        if not _in_git(self.root):
            return
        with self._repo() as repo:
            for name in names:
                path = str(self.root / name)
                if not repo.scm.is_ignored(f"{path}/"):  # of a folder, too, that is not there yet
                    repo.scm_context.ignore(path)

    def push(self, files: Sequence[str] = ()) -> int:
        """Send what dvc.lock names, and the run-cache.

        Args:
            files: dvc.yaml files of the audits that are sent; all of the workspace unless told otherwise.

        Returns:
            How many files were sent.

        Raises:
            UserError: there is no remote, or it cannot be reached.
        """
        with self._repo() as repo, reaching(repo):
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
        with self._repo() as repo, reaching(repo):
            return int(repo.pull(targets=self._targets(files), run_cache=True)["stats"]["fetched"])

    def _targets(self, files: Sequence[str]) -> list[str] | None:
        return [str(self.root / file) for file in files] or None

    def _restore(self, repo: Repo, address: str, *, remote: bool) -> tuple[str | None, str | None]:
        """Put in place what an equal key gave before: where that was found, None if nowhere; and why a remote could not be asked."""
        if checked_out(repo, address, pull=False):
            return "the run-cache", None
        name = remote_name(repo) if remote else None
        if name is None:
            return None, None
        known = redacted(f"remote {repo.config['remote'].get(name, {}).get('url', name)}")
        try:
            if not self._fetched:  # once a run: what team-mates' stages gave. Their data come stage by stage.
                self._fetched = True
                repo.stage_cache.pull(None)
            found = checked_out(repo, address, pull=True)
        except Exception as error:  # whatever a file system, a driver or a network may raise; the audit can do without
            return None, f"{known} cannot be asked ({redacted(first_line(error))})"
        return (known if found else None), None

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

        logging.getLogger("dvc").setLevel(logging.ERROR)  # DVC tells of every file that it writes, and shows bars

        folder = self.root / ".dvc" / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        with _threads, FileLock(folder / "repo.lock", thread_local=False), in_words(self.root):
            repo = Repo(str(self.root), config=self._config(), _wait_for_lock=True)
            repo.stage_cache._create_stage = lambda known, wdir=None: create_stage_of(repo, known, wdir)
            try:
                with lock_repo(repo):
                    forget_a_half_list_of_locks(repo)
                    yield repo
            finally:
                repo.close()


def _check_same(same: Callable[[], bool], address: str) -> None:
    if not same():
        raise InputsChangedError(
            f"the parameters of {address} were changed by somebody else in the meantime; run the same command again"
        )


def _in_git(root: Path) -> bool:
    return any((folder / ".git").exists() for folder in (root, *root.parents))
