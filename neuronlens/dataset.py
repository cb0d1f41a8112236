"""Labelled text: read from anybody's file, checked, and split so that no text stands on two sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronlens.artifact import fresh_folder, hash_file, hash_value, read_table, slug, write_table
from neuronlens.config import DatasetParams
from neuronlens.errors import DatasetError
from neuronlens.text_files import no_column, read_rows, strings

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("fit", "validation", "test")
_SPLIT_NAMES = {
    **dict.fromkeys(("fit", "train", "training"), "fit"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# shares of the splits where the data has none, and what is taken from `fit` for one that is missing
_SHARES = {"fit": 0.6, "validation": 0.2, "test": 0.2}
_HUB = "hub:"


@dataclass(frozen=True)
class Dataset:
    """Labelled rows.

    Attributes:
        name: what people call it, safe in a file name.
        row: [N] number of each row in the file it came from, counted from 0.
        text: [N].
        concept: [N] the label.
        split: [N] `fit`, `validation` or `test`.
        notes: what was dropped or made on the way in, in plain words.
    """

    name: str
    row: Sequence[int]
    text: Sequence[str]
    concept: Sequence[str]
    split: Sequence[str]
    notes: Sequence[str] = field(default=())

    def __len__(self) -> int:
        return len(self.row)

    @property
    def concepts(self) -> tuple[str, ...]:
        """All concepts, sorted."""
        return tuple(sorted(set(self.concept)))

    def to_table(self) -> pa.Table:
        """The artifact dataset.parquet: row, text, concept, split."""
        import pyarrow as pa

        columns = {
            "row": pa.array(self.row, pa.int64()),
            "text": pa.array(self.text, pa.string()),
            "concept": pa.array(self.concept, pa.string()),
            "split": pa.array(self.split, pa.string()),
        }
        return pa.table(columns)

    @classmethod
    def from_table(cls, table: pa.Table, name: str = "dataset") -> Dataset:
        """The rows of a dataset.parquet."""
        columns = [table[column].to_pylist() for column in ("row", "text", "concept", "split")]
        return cls(name, *columns)


def load_dataset(
    path: str | Path, *, text: str = "text", label: str = "label", split: str = "split", seed: int = 0
) -> Dataset:
    """Labelled rows of a Parquet, CSV or JSON Lines file, or of a hub data set (`hub:owner/name`, `hub:owner/name@revision`).

    Given splits are used (train means fit); what is missing is made, seeded and stratified by concept. A text that stands in several
    splits is kept in the last of fit, validation, test only.

    Raises:
        DatasetError: the file cannot be read, lacks a column, or cannot be audited.
    """
    return open_dataset(DatasetParams(path=str(path), text=text, label=label, split=split), seed)


def open_dataset(params: DatasetParams, seed: int = 0) -> Dataset:
    """`load_dataset` for the `dataset` section of a configuration.

    Raises:
        DatasetError: the file cannot be read or cannot be audited.
    """
    file, name = locate_dataset(params)
    table = read_rows(file)
    texts = strings(table, params.text, str(file), "--text")
    labels = strings(table, params.label, str(file), "--label")
    given = strings(table, params.split, str(file), "--split") if params.split in table.column_names else None

    notes: list[str] = []
    keep = [row for row, text in enumerate(texts) if text is not None and text.strip()]
    if len(keep) < len(texts):
        notes.append(f"{len(texts) - len(keep)} rows without text dropped")
    for row in keep:
        if labels[row] is None or not str(labels[row]).strip():
            raise DatasetError(
                f"row {row + 1} has an empty {params.label!r}: a concept needs a name",
                where=str(file),
                cure="Label or remove the row.",
            )
    if not keep:
        raise DatasetError("holds no rows with text", where=str(file), cure="Name another column with --text.")
    text, concept = [str(texts[row]) for row in keep], [str(labels[row]).strip() for row in keep]
    kept_splits = None if given is None else [given[row] for row in keep]
    splits = _splits(text, concept, kept_splits, seed, str(file), notes)
    keep, text, concept, splits = _without_leaks(keep, text, concept, splits, notes)
    _check(concept, splits, str(file))
    return Dataset(name, keep, text, concept, splits, tuple(notes))


def locate_dataset(params: DatasetParams) -> tuple[Path, str]:
    """The local file of a data set (frozen from the hub where asked for) and its name.

    Raises:
        DatasetError: none is named, or there is no such file.
    """
    if not params.path:
        raise DatasetError("no data set is named", where="dataset.path", cure="Name a file with --dataset.")
    if params.path.startswith(_HUB):
        file = freeze_hub_dataset(params.path.removeprefix(_HUB), text=params.text, label=params.label)
        return file, slug(params.path.removeprefix(_HUB).replace("/", "--"), "data")
    file = Path(params.path).expanduser()
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "no such file"
        raise DatasetError(
            problem, where=params.path, cure="Name a Parquet, CSV or JSON Lines file, or hub:owner/name."
        )
    named = f"{file.resolve().parent.name}-{file.stem}" if file.stem in ("dataset", "data", "train") else file.stem
    return file, slug(named, "data")


def dataset_fingerprint(params: DatasetParams) -> str:
    """Identity of the labelled text: the hash of its file."""
    return hash_file(locate_dataset(params)[0])


def freeze_hub_dataset(name: str, *, text: str, label: str, cache: Path | None = None) -> Path:
    """Download a hub data set once and keep it as Parquet, so that an audit's data cannot change under it.

    Args:
        name: `owner/name` or `owner/name@revision`, or a local folder laid out as a hub data set.
        text, label: columns to keep; class labels become their names.
        cache: folder of frozen data sets; `~/.cache/neuronlens/datasets` unless told otherwise.

    Raises:
        DatasetError: the extra `hub` is not installed, or the data set cannot be had.
    """
    folder = (cache or Path.home() / ".cache/neuronlens/datasets") / hash_value([name, text, label])[:16]
    frozen = folder / "dataset.parquet"
    if frozen.exists():
        return frozen
    try:
        import datasets
    except ImportError:
        raise DatasetError(
            "hub data sets need the package datasets",
            where=_HUB + name,
            cure="Install it: pip install 'neuronlens[hub]'.",
        ) from None
    import pyarrow as pa

    if "://" in name:
        raise DatasetError("is an address and no name", where=_HUB + name, cure="Write hub:owner/name@revision.")
    hub_id, _, revision = name.partition("@")
    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(hub_id, revision=revision or None)
    except (
        OSError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
    ) as error:  # a script is a RuntimeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"cannot be had from the hub ({reason})", where=_HUB + name, cure="Check the name and the network."
        ) from None
    parts = []
    for split, rows in loaded.items():
        for column, option in ((text, "--text"), (label, "--label")):
            if column not in rows.column_names:
                raise no_column(column, rows.column_names, _HUB + name, option)
        names = getattr(rows.features[label], "names", None)
        labels = [_class_name(names, value) for value in rows[label]]
        columns = {
            text: pa.array(rows[text], pa.string()),
            label: pa.array([None if v is None else str(v) for v in labels], pa.string()),
        }
        parts.append(pa.table({**columns, "split": pa.array([str(split)] * len(rows), pa.string())}))
    with fresh_folder(folder) as out:
        write_table(out / "dataset.parquet", pa.concat_tables(parts))
    return frozen


def _class_name(names: Sequence[str] | None, value: Any) -> Any:
    """The name of a class label; -1 is how the hub writes that there is none."""
    if not names or value is None:
        return value
    return names[value] if value >= 0 else None


def read_dataset(folder: Path) -> Dataset:
    """The rows that the stage `prepare` wrote."""
    return Dataset.from_table(read_table(folder / "dataset.parquet"))


def _rank(text: str, seed: int) -> bytes:
    """A seeded place for a text that does not depend on the order of the file or on the other rows."""
    return hashlib.blake2b(text.encode(), key=str(seed).encode(), digest_size=16).digest()


def _carve(
    text: Sequence[str], concept: Sequence[str], rows: Sequence[int], shares: Mapping[str, float], seed: int
) -> dict[int, str]:
    """A split for each of `rows`, stratified by concept; equal texts go together."""
    groups: dict[str, dict[str, list[int]]] = {}
    home: dict[str, str] = {}
    for row in rows:  # a text under two labels is counted with one of them, whatever the order of rows
        home[text[row]] = min(home.get(text[row], concept[row]), concept[row])
    for row in rows:
        groups.setdefault(home[text[row]], {}).setdefault(text[row], []).append(row)
    total, splits = sum(shares.values()), list(shares)
    carved: dict[int, str] = {}
    for members in groups.values():
        ordered = sorted(members, key=lambda member: _rank(member, seed))
        edges = [round(len(ordered) * sum(list(shares.values())[: i + 1]) / total) for i in range(len(splits))]
        for place, member in enumerate(ordered):
            split = next(split for split, edge in zip(splits, edges, strict=True) if place < edge)
            carved.update(dict.fromkeys(members[member], split))
    return carved


def _splits(
    text: list[str], concept: list[str], given: list[str | None] | None, seed: int, where: str, notes: list[str]
) -> list[str]:
    if given is None:
        notes.append(
            "splits made from the data: " + ", ".join(f"{name} {share:.0%}" for name, share in _SHARES.items())
        )
        carved = _carve(text, concept, range(len(text)), _SHARES, seed)
        return [carved[row] for row in range(len(text))]
    unknown = sorted({str(name) for name in given if str(name).strip().lower() not in _SPLIT_NAMES})
    if unknown:
        raise DatasetError(
            f"split {unknown[0]!r} is not known",
            where=where,
            cure="Use train (or fit), validation and test, or name no split column.",
        )
    splits = [_SPLIT_NAMES[str(name).strip().lower()] for name in given]
    missing = [name for name in SPLITS if name not in splits]
    if "fit" in missing:
        raise DatasetError(
            "no row is in the split 'train' (or 'fit')",
            where=where,
            cure="Ranges are fitted on it; add it or drop the column.",
        )
    if missing:
        rows = [row for row, name in enumerate(splits) if name == "fit"]
        shares = {"fit": 1 - sum(_SHARES[name] for name in missing), **{name: _SHARES[name] for name in missing}}
        for row, name in _carve(text, concept, rows, shares, seed).items():
            splits[row] = name
        notes.append(f"split {' and '.join(missing)} taken from fit")
    return splits


def _without_leaks(
    row: list[int], text: list[str], concept: list[str], split: list[str], notes: list[str]
) -> tuple[list[int], list[str], list[str], list[str]]:
    """Drop a text from a split where it also stands in a later one (fit < validation < test)."""
    last: dict[str, int] = {}
    for words, name in zip(text, split, strict=True):
        last[words] = max(last.get(words, 0), SPLITS.index(name))
    keep = [i for i, name in enumerate(split) if SPLITS.index(name) == last[text[i]]]
    if len(keep) < len(text):
        notes.append(f"{len(text) - len(keep)} rows dropped whose text also stands in a later split")
    return [row[i] for i in keep], [text[i] for i in keep], [concept[i] for i in keep], [split[i] for i in keep]


def _check(concept: list[str], split: list[str], where: str) -> None:
    concepts = sorted(set(concept))
    if len(concepts) < 2:
        raise DatasetError(
            f"holds one concept only ({concepts[0]!r})" if concepts else "holds no rows with text",
            where=where,
            cure="An audit compares a concept with others; add rows of at least one more.",
        )
    count = Counter(zip(concept, split, strict=True))
    for name in concepts:
        for part, least in (("fit", 2), ("test", 1)):
            if count[name, part] < least:
                raise DatasetError(
                    f"concept {name!r} has {count[name, part]} rows in the split {part!r}, at least {least} needed",
                    where=where,
                    cure="Add rows or remove the concept.",
                )
