"""What a stage leaves behind: a folder that appears whole or not at all, with a manifest that explains it years later."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronlens.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
TIMING = "timing.json"
_DIGEST = "digest"  # of all that a manifest says beside it
_LIBRARIES = ("neuronlens", "torch", "transformers", "numpy", "scipy", "pyarrow")


def canonical_json(value: Any) -> str:
    """The one spelling of a value: sorted keys, no spaces, no NaN. Equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_value(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(root: Path, names: list[str]) -> str:
    """Identity of a set of files: the hash of their sorted (relative path, size, sha256)."""
    return hash_value([[name, (root / name).stat().st_size, hash_file(root / name)] for name in sorted(names)])


def slug(text: str, otherwise: str) -> str:
    """A name that is safe as a file or folder name on every system; `otherwise` where nothing is left of it."""
    return shortened(re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")) or otherwise


def shortened(name: str, most: int = 100) -> str:
    """A file name of so many bytes at most, so that two fit into one; what is longer has a hash of the whole in place of its end."""
    whole = name.encode()
    if len(whole) <= most:
        return name
    return f"{whole[: most - 9].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:8]}"


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose behaviour decides the numbers."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}


@lru_cache
def _version(library: str) -> str:
    """What is imported stays as it is; every part of a stage asks, and each answer reads a file of metadata."""
    return metadata.version(library)


def finite(value: Any) -> Any:
    """A value as strict JSON: what is not finite is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, (list, tuple)) else value


def indented_json(value: Any) -> str:
    """Indented JSON with sorted keys and a final newline; refuses NaN."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """`indented_json` in a file."""
    path.write_text(indented_json(value), encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ArtifactError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def write_table(path: Path, table: pa.Table, *, row_group_size: int = 1 << 17, values: tuple[str, ...] = ()) -> None:
    """The one way a Parquet file is written: zstd level 1, byte-stable for equal tables.

    Args:
        values: columns of float32 measurements. They are byte-stream-split, which shrinks floats that came from bfloat16 to a third;
            dictionaries, pyarrow's default, would inflate them. Their extremes are left out, as they make the footer slow to read.
    """
    import pyarrow.parquet as pq

    others = [name for name in table.column_names if name.split(".")[0] not in values]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=1,
        use_dictionary=others or False,
        use_byte_stream_split=[f"{name}.list.element" for name in values] or False,
        write_statistics=others if values else True,
        row_group_size=row_group_size,
        store_schema=True,
    )


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file as an Arrow table.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ArtifactError:
    """What to raise for a file that cannot be read."""
    return ArtifactError(f"{path}: cannot be read ({error}); delete its folder and run the same command again")


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends, and vanishes when it fails.

    A reader therefore sees the old artifact or the new one, never a half. Leftovers of a killed run are removed by the next one.
    """
    created = [folder for folder in out.parents if not folder.exists()]
    remove_stale(out)
    folder = _beside(out)
    folder.chmod(0o755)  # mkdtemp's 0700 would hide a shared audit from team-mates
    old = folder.with_name(folder.name + "-old")
    try:
        yield folder
        try:
            if out.exists():
                out.rename(old)
            folder.rename(out)
        except BaseException:  # between the two, the new one is as whole as the old one
            for whole in (folder, old):
                if whole.exists() and not out.exists():
                    with contextlib.suppress(OSError):
                        whole.rename(out)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        for parent in created:  # a run that failed leaves no empty folders either
            with contextlib.suppress(OSError):
                parent.rmdir()


def _beside(out: Path) -> Path:
    """A new temporary folder for `out`, which says whose it is."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):  # another that failed has just removed the parent, empty until now
            out.parent.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{_temporary(out)}{_owner()}-", dir=out.parent))
    raise ArtifactError(f"{out.parent}: disappears as soon as it is made")


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all, in the place of what is there. As `fresh_folder` for folders.

    Args:
        content: text is written as UTF-8.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(file)
    part = file.with_name(f"{_temporary(file)}{_owner()}-{secrets.token_hex(4)}")
    try:
        if isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            part.write_bytes(content)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def remove_stale(out: Path) -> None:
    """Remove the temporary folders and files of `out` whose processes are gone."""
    prefix = _temporary(out)
    for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
        if _owner_alive(stale, stale.name.removeprefix(prefix)):
            continue
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def _temporary(out: Path) -> str:
    return f".{out.name}.tmp-"


def _owner() -> str:
    """This process among those of all machines that write to a file system."""
    return f"{os.getpid()}@{_machine()}"


@lru_cache
def _machine() -> str:
    return slug(socket.gethostname(), "localhost").replace("-", "_")


_ABANDONED = 24 * 3600.0  # seconds without a change after which another machine's process counts as gone


def _owner_alive(folder: Path, suffix: str) -> bool:
    pid, _, machine = suffix.split("-")[0].partition("@")
    if not pid.isdigit():
        return False
    if machine and machine != _machine():
        with contextlib.suppress(OSError):
            return time.time() - folder.stat().st_mtime < _ABANDONED
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def stage_key(stage: str, method: int, inputs: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """What makes two runs of a stage the same run: what went in, the parameters, the method. No path, no time, no machine."""
    return hash_value({"stage": stage, "method": method, "inputs": dict(inputs), "params": dict(params)})


def write_manifest(
    folder: Path,
    *,
    stage: str,
    method: int,
    inputs: Mapping[str, str],
    params: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Describe every file in `folder` in its manifest.json.

    Args:
        stage: name of the stage.
        method: version of the stage's method; changes when equal inputs would give other numbers.
        inputs: name -> sha256 of what went in.
        params: the parameters that the stage depends on.
        facts: what the stage found worth telling: rows, sites, dtype, device, seeds, warnings.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
        for name in names
        if name not in (MANIFEST, TIMING)
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "method": method,
        "key": stage_key(stage, method, inputs, params),
        "inputs": dict(inputs),
        "params": dict(params),
        "facts": dict(facts),
        "files": files,
        "versions": library_versions(),
    }
    write_json(folder / MANIFEST, manifest | {_DIGEST: hash_value(manifest)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact.

    Raises:
        ArtifactError: no manifest, one of a newer schema than this version reads, or one that is none.
    """
    file = folder / MANIFEST
    manifest = read_versioned(file, SCHEMA_VERSION)
    for name, kind in _MANIFEST.items():
        if not isinstance(manifest.get(name), kind):
            raise damaged(file, TypeError(f"{name} is not what it has to be"))
    for name, known in manifest["files"].items():
        if (
            not isinstance(known, dict)
            or not isinstance(known.get("bytes"), int)
            or not isinstance(known.get("sha256"), str)
        ):
            raise damaged(file, TypeError(f"what it says of the file {name} is not what it has to be"))
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise damaged(file, ValueError(f"the file {name} lies outside of its folder"))
    return manifest


# name -> type of what a manifest says, but for its version
_MANIFEST = {
    "stage": str,
    "method": int,
    "key": str,
    **dict.fromkeys(("inputs", "params", "facts", "files", "versions"), dict),
}


def read_versioned(file: Path, newest: int) -> dict[str, Any]:
    """A JSON object that says which version of its schema it follows.

    Args:
        newest: version that this NeuronLens reads.

    Raises:
        ArtifactError: the file is missing, is no such object, or of a newer version.
    """
    found = read_json(file)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise damaged(file, TypeError("it does not say which version of its schema it follows"))
    if version > newest:
        raise ArtifactError(
            f"{file}: schema version {version} is newer than {newest}, the newest this NeuronLens reads; upgrade it"
        )
    known: dict[str, Any] = found
    return known


def content_hash(folder: Path) -> str:
    """Identity of an artifact's content: the hash of its manifest's file list. Timings and library versions are not part of it."""
    return hash_value(read_manifest(folder)["files"])


def manifest_hash(folder: Path) -> str:
    """Identity of an artifact and of all that its manifest tells of it, for who tells it on."""
    return hash_value(read_manifest(folder))


def is_intact(folder: Path) -> bool:
    """Whether the manifest is as it was written, and every file it names is there with the bytes it had."""
    with contextlib.suppress(ArtifactError, OSError):
        manifest = read_manifest(folder)
        digest = manifest.pop(_DIGEST, None)  # earlier versions wrote none
        return digest in (None, hash_value(manifest)) and all(
            (folder / name).stat().st_size == known["bytes"] and hash_file(folder / name) == known["sha256"]
            for name, known in manifest["files"].items()
        )
    return False
