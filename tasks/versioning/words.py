"""What DVC, a remote or the way to it complain of, as a line that says what is wrong and how to cure it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from neuronlens.errors import UnreachableError, UserError, did_you_mean

if TYPE_CHECKING:
    from dvc.repo import Repo

MARKERS = re.compile(r"^(<{7}|={7}|>{7})", re.MULTILINE)


def remote_name(repo: Repo) -> str | None:
    """Of DVC's default remote."""
    name: str | None = repo.config["core"].get("remote")
    return name


@contextmanager
def reaching(repo: Repo) -> Iterator[None]:
    """What goes wrong on the way to a remote, in a line.

    Raises:
        UserError: no such remote is configured, or it lacks files.
        UnreachableError: it does not answer.
    """
    from dvc.exceptions import CheckoutError, DvcException, FileTransferError

    name = remote_name(repo)
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
    except FileTransferError as error:
        raise UnreachableError(
            first_line(error),
            where=f"remote {known[name].get('url')}",
            cure="Check its address, the network and your credentials; what is computed is kept, what went is there.",
        ) from error
    except DvcException:
        raise
    except Exception as error:  # whatever a file system, a driver or a network may raise
        raise UnreachableError(
            f"cannot be reached ({first_line(error)})",
            where=f"remote {known[name].get('url')}",
            cure="Check its address, the network and your credentials; what is computed is kept.",
        ) from error


@contextmanager
def in_words(root: Path) -> Iterator[None]:
    """DVC's complaints as a line that says what is wrong, and how to cure it.

    Raises:
        UserError: DVC complained.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.utils.serialize import ParseError

    try:
        yield
    except LockError as error:  # locks of dead processes are not kept by DVC
        raise UserError(
            f"DVC is at work here ({' '.join(str(error).split('If there are')[0].split()).strip()})",
            where=str(root),
            cure="Run the same command again when it is done; where no DVC runs, remove .dvc/tmp/rwlock.",
        ) from error
    except ParseError as error:
        file = Path(error.path)
        where = file if file.is_absolute() else Path.cwd() / file
        conflict = where.is_file() and MARKERS.search(where.read_text(encoding="utf-8", errors="replace"))
        if conflict:
            what, cure = (
                "holds the marks of a merge conflict",
                (
                    f"Keep either side, such as git checkout --ours {error.path}; what the other one names comes back from the cache."
                ),
            )
        else:
            what, cure = (
                f"cannot be read ({first_line(error)})",
                "Put it right, or delete it: the cache remembers what it named.",
            )
        raise UserError(what, where=str(error.path), cure=cure) from error
    except DvcException as error:
        raise UserError(f"DVC: {first_line(error)}", where=str(root)) from error


def first_line(error: BaseException) -> str:
    """What an error says, without what follows; the name of its class where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
