"""Files of text: tables with a text a row, and plain documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronlens.config import EvaluateParams
from neuronlens.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa


def read_rows(file: Path) -> pa.Table:
    """A Parquet, CSV or JSON Lines file as an Arrow table.

    Raises:
        DatasetError: unknown ending or unreadable content.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".parquet": pa.parquet.read_table,
        ".csv": lambda path: _read_csv(path, ","),
        ".tsv": lambda path: _read_csv(path, "\t"),
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise DatasetError(
            f"ending {file.suffix!r} is not known", where=str(file), cure=f"Use one of {', '.join(readers)}."
        )
    try:
        table = reader(file)
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        _refuse_other_encodings(file)
        raise DatasetError(
            f"cannot be read ({error})", where=str(file), cure="Check that it is whole and what its ending says."
        ) from None
    if not names or table.num_rows == 0:
        raise DatasetError("has no rows", where=str(file), cure="Name a file with labelled text.")
    return table


def _refuse_other_encodings(file: Path) -> None:
    """Say where a file of text is not UTF-8; its reader says no more than that it is not."""
    if file.suffix.lower() == ".parquet":
        return
    try:
        content = file.read_bytes()
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x})", where=str(file), cure="Save it as UTF-8."
        ) from None
    except OSError:  # which the reader has met, too
        return


def _read_csv(file: Path, delimiter: str) -> pa.Table:
    """Every column as text: a label 007 is a name, and a column that looks like numbers for a megabyte may not be."""
    import pyarrow as pa
    import pyarrow.csv

    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with pa.csv.open_csv(file, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return pa.csv.read_csv(file, parse_options=parse, convert_options=convert)


def _read_json_lines(file: Path) -> pa.Table:
    """An object a line. By Python's reader: Arrow's ends the process at some damaged files."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_no_number)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(row, dict):
                raise TypeError(f"line {number} is no object")
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def read_documents(path: str, rows: int) -> list[str]:
    """The first `rows` non-empty documents of a text file (one a line) or of a table's `text` column.

    Raises:
        DatasetError: the file cannot be read or holds no text.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DatasetError(
            "no such file",
            where=f"evaluate.auxiliary: {path}",
            cure="Name a text file with a document a line, or --set evaluate.auxiliary=null.",
        )
    if file.suffix.lower() in (".txt", ".text"):
        try:
            found: Sequence[str | None] = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            _refuse_other_encodings(file)
            raise
    else:
        found = strings(read_rows(file), "text", path, None)
    documents = [text for text in found if text and text.strip()]
    if not documents:
        raise DatasetError("holds no text", where=path, cure="Name a text file with a document a line.")
    return documents[:rows]


def spare_documents(params: EvaluateParams) -> list[str]:
    """Auxiliary documents behind those that perplexity is measured on; none where there is no auxiliary text."""
    if params.auxiliary is None:
        return []
    return read_documents(params.auxiliary, 2 * params.auxiliary_rows)[params.auxiliary_rows :]


def no_column(column: str, known: Sequence[str], where: str, option: str | None) -> DatasetError:
    """What is raised where a table lacks a column."""
    hint = f" Name the column with {option}." if option else ""
    if len(known) == 1 and any(separator in known[0] for separator in ";\t|"):
        hint = " A .csv has commas between its columns, and a .tsv tabs."
    return DatasetError(f"has no column {column!r}", where=where, cure=did_you_mean(column, known) + hint)


def strings(table: pa.Table, column: str, where: str, option: str | None) -> list[str | None]:
    """A column as strings; numbers become their digits.

    Raises:
        DatasetError: there is no such column, or several, or it holds no text.
    """
    import pyarrow as pa

    if column not in table.column_names:
        raise no_column(column, table.column_names, where, option)
    if table.column_names.count(column) > 1:
        raise DatasetError(f"has several columns {column!r}", where=where, cure="Rename all but one.")
    values = table[column]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        try:
            values = values.cast(pa.string())
        except pa.ArrowException:
            raise DatasetError(
                f"column {column!r} holds {values.type}, not text", where=where, cure="Name another column."
            ) from None
    try:  # what calls itself text may be none
        strings: list[str | None] = values.to_pylist()
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"cannot be read ({error})", where=where, cure=f"Column {column!r} must be UTF-8; convert it."
        ) from None
    return strings
