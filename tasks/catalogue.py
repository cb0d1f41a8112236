"""The catalogue: all audits of a workspace and all lines of checkpoints, asked in SQL.

It is made of what is stored whenever it is asked for: there is no second database to keep in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from neuronlens.artifact import read_json, read_manifest
from neuronlens.errors import ArtifactError
from tasks.lines import Line, lines_of

_AUDITS = pa.schema(
    [
        *(
            (name, pa.string())
            for name in ("audit", "folder", "checkpoint", "fingerprint", "model_type", "kind", "dataset", "preset")
        ),
        ("sites", pa.list_(pa.string())),
        ("concepts", pa.int32()),
        ("test_rows", pa.int32()),
        *((name, pa.float64()) for name in ("accuracy", "perplexity", "selectivity", "target_drop", "complement_drop")),
        *((name, pa.int32()) for name in ("holds", "contradicted", "not_decided")),
    ]
)
_DECIDED = ("checkpoint", "order", "outcome", "audit", "before", "fingerprint", "error", "at")
_DECISIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("line", "checkpoint")),
        ("order", pa.int64()),
        *((name, pa.string()) for name in ("outcome", "audit", "before", "fingerprint", "error", "at")),
        *((name, pa.int32()) for name in ("passed", "failed", "not_decided", "waived", "not_applicable")),
    ]
)


def catalogue(root: Path, folders: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """A connection with the views `audits` (one row per finished audit) and `decisions` (one row per decision of a watched line).

    Args:
        root: of the workspace.
        folders: of its audits.
    """
    connection = duckdb.connect(config={"threads": 1})
    rows = [row for folder in folders if (row := _audit(folder)) is not None]
    connection.register("audits", pa.Table.from_pylist(rows, schema=_AUDITS))
    decided = [row for name in lines_of(root) for row in _decisions(Line(root, name, name))]
    connection.register("decisions", pa.Table.from_pylist(decided, schema=_DECISIONS))
    return connection


def listed(root: Path, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """All audits, with the last verdicts of a line that watched them."""
    return _asked(
        catalogue(root, folders),
        """
        select audits.* exclude (not_decided), audits.not_decided as claims_not_decided, last.line, last."order", last.passed, last.failed,
               last.not_decided as gates_not_decided, last.waived, last.not_applicable
        from audits left join (
            select * from decisions where outcome = 'audited' qualify row_number() over (partition by audit order by "at" desc) = 1
        ) last using (audit)
        order by coalesce(last.line, ''), coalesce(last."order", 0), audit
        """,
        {},
    )


def trend(root: Path, folders: Sequence[Path], line: str) -> list[dict[str, Any]]:
    """The checkpoints of a line in their order: the last decision on each, with the numbers of its audit."""
    return _asked(
        catalogue(root, folders),
        """
        select decisions.*, audits.accuracy, audits.perplexity, audits.selectivity, audits.target_drop, audits.complement_drop
        from decisions left join audits using (audit)
        where line = $line
        qualify row_number() over (partition by decisions.checkpoint order by "at" desc) = 1
        order by decisions."order"
        """,
        {"line": line},
    )


def _asked(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    found = connection.execute(query, parameters) if parameters else connection.execute(query)
    names = [column[0] for column in found.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    connection.close()
    return rows


def _audit(folder: Path) -> dict[str, Any] | None:
    """A row of an audit; None where it is not finished."""
    try:
        facts, extracted, evaluated = (
            read_manifest(folder / name)["facts"] for name in ("prepare", "extract", "evaluate")
        )
        report = read_manifest(folder / "report")
        numbers = read_json(folder / "report" / "metrics.json")
    except ArtifactError:
        return None
    verdicts = report["facts"]["verdicts"]
    method = (
        "tuned"
        if "tuned/selectivity" in numbers
        else next((n.rpartition("/")[0] for n in numbers if n.endswith("/selectivity")), "")
    )
    return {
        "audit": folder.resolve().name,
        "folder": str(folder),
        "checkpoint": facts["checkpoint"]["name"],
        "fingerprint": facts["checkpoint"]["fingerprint"],
        "model_type": facts["checkpoint"]["model_type"],
        "kind": facts["checkpoint"]["kind"],
        "dataset": facts["dataset"]["name"],
        "preset": report["params"]["preset"],
        "sites": facts["sites"],
        "concepts": len(facts["rows"]),
        "test_rows": evaluated["rows"],
        "accuracy": numbers.get("base/accuracy", extracted["accuracy"]),
        "perplexity": numbers.get("base/perplexity"),
        "selectivity": numbers.get(f"{method}/selectivity"),
        "target_drop": numbers.get(f"{method}/target_accuracy_drop"),
        "complement_drop": numbers.get(f"{method}/complement_accuracy_drop"),
        "holds": verdicts.get("holds", 0),
        "contradicted": verdicts.get("contradicted", 0),
        "not_decided": verdicts.get("not decided", 0),
    }


def _decisions(line: Line) -> list[dict[str, Any]]:
    found = []
    for decision in line.decisions():
        counted = [gate["verdict"] for gate in decision.gates if gate["waived"] is None]
        found.append(
            {
                "line": line.name,
                **{name: getattr(decision, name) for name in _DECIDED},
                "passed": counted.count("PASS"),
                "failed": counted.count("FAIL"),
                "not_decided": counted.count("NOT DECIDED"),
                "waived": len(decision.gates) - len(counted),
                "not_applicable": counted.count("NOT APPLICABLE"),
            }
        )
    return found
