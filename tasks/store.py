"""Parts made by workers that see none of this machine's files: what they read and what they make travels through a store that fsspec knows.

STORE/files/SHA256                 what parts are made from: each file once, under the hash of its bytes
STORE/parts/FOLDER/NAME/...        parts that have been made and not been fetched yet; the manifest is the last file that is written
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from neuronlens.artifact import MANIFEST, fresh_folder, hash_file, hash_value, is_intact
from neuronlens.errors import NeuronLensError, UnreachableError, redacted
from neuronlens.parts import Flag, PartMaker, link


@dataclass(frozen=True)
class Listing:
    """A folder, or a single file, by what is in it.

    Attributes:
        files: path within the folder -> sha256 of the file's bytes.
        single: whether it is the one file, and no folder.
    """

    files: Mapping[str, str]
    single: bool


def cache_folder() -> Path:
    """Where a worker keeps what it has fetched."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuronlens"


@dataclass(frozen=True)
class Store:
    """A folder of an object store, or of any other file system that fsspec knows.

    Attributes:
        url: its address, such as s3://bucket/folder.
    """

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec

        with self._in_words():
            system, root = fsspec.core.url_to_fs(self.url)
            return system, root.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}  # connections stay in the process that made them

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except NeuronLensError:
            raise
        except Exception as error:  # every file system has its own kinds
            text = " ".join(str(error).split()) or type(error).__name__
            raise UnreachableError(
                redacted(text)[:200],
                where=f"store {redacted(self.url)}",
                cure="Check runner.store, its keys and the network.",
            ) from error

    def put(self, path: Path) -> Listing:
        """Have a file or a folder there."""
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        base = path.parent if path.is_file() else path
        digests = {file.relative_to(base).as_posix(): hash_file(file) for file in files}
        system, root = self._place
        with self._in_words():
            for file, digest in zip(files, digests.values(), strict=True):
                target = f"{root}/files/{digest}"
                if not system.exists(target) or system.size(target) != file.stat().st_size:
                    _put(system, file, target)
        return Listing(digests, path.is_file())

    def get(self, listing: Listing) -> Path:
        """A file or a folder on this machine. What has been fetched before is not fetched again."""
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        for digest in {*listing.files.values()}:
            self._fetch(digest, cache / "files" / digest)
        folder = cache / "folders" / hash_value(dict(listing.files))
        with _alone(folder):
            if not folder.is_dir():
                with fresh_folder(folder) as out:
                    for name, digest in listing.files.items():
                        (out / name).parent.mkdir(parents=True, exist_ok=True)
                        link(cache / "files" / digest, out / name)
        return folder / next(iter(listing.files)) if listing.single else folder

    def _fetch(self, digest: str, target: Path) -> None:
        with _alone(target):
            if target.is_file():
                return
            system, root = self._place
            part = target.with_suffix(f".{os.getpid()}")
            with self._in_words():
                system.get_file(f"{root}/files/{digest}", str(part))
            if hash_file(part) != digest:
                part.unlink()
                raise NeuronLensError(
                    f"store {redacted(self.url)}: files/{digest} holds something else; remove it there"
                )
            part.replace(target)

    def put_part(self, folder: Path, name: str) -> None:
        """Hand over a part: it is there when its manifest is.

        Args:
            name: within parts/.
        """
        system, root = self._place
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        with self._in_words():
            for file in sorted(files, key=lambda file: file.name == MANIFEST):
                _put(system, file, f"{root}/parts/{name}/{file.relative_to(folder).as_posix()}")

    def has_part(self, name: str) -> bool:
        """Whether a part is there."""
        system, root = self._place
        with self._in_words():
            system.invalidate_cache()
            return bool(system.exists(f"{root}/parts/{name}/{MANIFEST}"))

    def get_part(self, name: str, out: Path) -> None:
        """A part, on this machine."""
        system, root = self._place
        base = f"{root}/parts/{name}"
        with fresh_folder(out) as folder, self._in_words():
            for path in system.find(base):
                target = folder / path[path.index(base) + len(base) + 1 :]
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(path, str(target))

    def remove_parts(self, name: str) -> None:
        """Some, or all, of a folder below parts/."""
        system, root = self._place
        with suppress(FileNotFoundError), self._in_words():
            if system.exists(f"{root}/parts/{name}"):
                system.rm(f"{root}/parts/{name}", recursive=True)


@dataclass(frozen=True)
class Shipped:
    """Makes parts on a machine that sees the store alone. It can be pickled.

    Attributes:
        maker: as it would make them here.
        store: what everything travels through.
        listings: name -> what the maker reads, in the store.
        flag: raised when a part has failed for good.
    """

    maker: PartMaker
    store: Store
    listings: Mapping[str, Listing]
    flag: Flag = field(default_factory=Flag)

    @classmethod
    @contextmanager
    def to(cls, store: Store, maker: PartMaker) -> Iterator[Shipped]:
        """The maker, with what it reads sent there. What it has made is removed from the store at the end, having been brought."""
        shipped = cls(maker, store, {name: store.put(path) for name, path in maker.places.items()})
        yield shipped
        store.remove_parts(maker.folder.name)

    def __call__(self, name: str) -> None:
        """Make a part, and hand it over."""
        self.flag.check()
        place = f"{self.maker.folder.name}/{name}"
        if self.store.has_part(place):
            return
        places = {what: self.store.get(listing) for what, listing in self.listings.items()}
        own = self.maker.at(places, cache_folder() / "parts" / self.maker.folder.name)
        own(name)
        self.store.put_part(own.folder / name, place)
        shutil.rmtree(own.folder / name, ignore_errors=True)

    def bring(self, names: Sequence[str]) -> list[str]:
        """Fetch those parts that are in the store.

        Returns:
            Names of those that are not.
        """
        missing = []
        for name in names:
            place, out = f"{self.maker.folder.name}/{name}", self.maker.folder / name
            if self.store.has_part(place):
                self.store.get_part(place, out)
                if is_intact(out):
                    continue
                self.store.remove_parts(place)  # what a worker that is gone has left half written
                shutil.rmtree(out, ignore_errors=True)
            missing.append(name)
        return missing


def _put(system: Any, file: Path, target: str) -> None:
    system.makedirs(target.rpartition("/")[0], exist_ok=True)
    system.put_file(str(file), target)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Several workers of a machine share its cache."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock"), thread_local=False):
        yield
