"""A comparison as an MLflow run: the main changes with their intervals, drift, and the runs of the two audits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronlens import artifact
from neuronlens.comparison import COMPARISON, TRANSFER
from neuronlens.errors import ArtifactError
from tasks.audits import Audit
from tasks.tracking.audits import FIGURES, experiment_of, state_key
from tasks.tracking.store import Note, Recorded, Store

_MAIN = ("base_accuracy", "base_confidence", "base_log_perplexity", "selectivity", "confidence_selectivity")
_DROPS = ("target_accuracy_drop", "complement_accuracy_drop", "log_perplexity_ratio")
_FILES = (COMPARISON, TRANSFER, "comparison.html")


def record_comparison(before: Path, after: Audit, folder: Path) -> Recorded | None:
    """Note the comparison of two audits, unless that has been done; None where no store is configured and the second audit is none of a
    workspace.

    Args:
        before: folder of the first audit.
        folder: that holds comparison.json or transfer.json.

    Raises:
        StoreError: the store cannot be used, and what can be done about it. The comparison is as complete as before.
    """
    store = Store.of(after.workspace if after.pipeline is not None else None)
    if store is None:
        return None
    key = artifact.hash_value({"comparison": artifact.content_hash(folder)})
    known = store.known(key)
    if known is not None:
        return known
    runs = {"before": _run_of(before, store), "after": _run_of(after.folder, store)}
    found = {which: run for which, run in runs.items() if run is not None}
    return store.note(key, "comparison", lambda: experiment_of(after.folder), lambda: _note(folder, found))


def _run_of(audit: Path, store: Store) -> str | None:
    """The run of the state that an audit is in; None where it has no report, and thus no state that could have been noted."""
    try:
        key = state_key(audit)
    except ArtifactError:
        return None
    found = store.known(key) or store.find(key, "comparison")
    return None if found is None else found.run


def _note(folder: Path, runs: Mapping[str, str]) -> Note:
    from neuronlens.figures import drawings_between  # takes a while to import, and only a new comparison is drawn

    transferred = (folder / TRANSFER).is_file()
    document = artifact.read_json(folder / (TRANSFER if transferred else COMPARISON))
    audits = dict(zip(("before", "after"), document["audits"], strict=True))
    name = " -> ".join(audit["audit"] for audit in audits.values())
    tags = {"neuronlens.comparison": "transfer" if transferred else "changes"}
    if "identical" in document:
        tags["neuronlens.identical"] = str(document["identical"]).lower()
    for which, audit in audits.items():
        tags |= {
            f"neuronlens.{which}.audit": audit["audit"],
            f"neuronlens.{which}.checkpoint": str(audit["checkpoint"]["name"]),
            f"neuronlens.{which}.fingerprint": str(audit["checkpoint"]["fingerprint"]),
        }
    tags |= {f"neuronlens.{which}.run": run for which, run in runs.items()}
    return Note(
        f"{name} (transfer)" if transferred else name,
        tags,
        {"seed": str(document["seed"]), "sites": str(document["sites"])},
        _metrics(document),
        files=[folder / name for name in _FILES if (folder / name).is_file()],
        texts={} if transferred else {f"{FIGURES}/{name}": svg for name, svg in drawings_between(document).items()},
    )


def _metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """change/[SITE/tuned/][CONCEPT/]QUANTITY, without site where the unedited models are compared, with `_low` and `_high` of its interval;
    drift/SITE/..., of the concept whose neurons moved farthest.
    """
    found: dict[str, float] = {}
    for change in document["changes"]:
        if change["method"] not in (None, "tuned") or change["quantity"] not in (*_MAIN, *_DROPS):
            continue
        place = (change["site"], change["method"], change["concept"], change["quantity"])
        name = "/".join(["change", *(part for part in place if part is not None)])
        limits = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
        found |= {key: change[limit] for key, limit in limits.items() if change[limit] is not None}
    for row in document.get("drift", ()):
        for name in ("max_wasserstein", "floor", "beyond_floor", "moved", "widened", "narrowed"):
            key = f"drift/{row['site']}/{name}"
            found[key] = max(found.get(key, 0.0), float(row[name] or 0.0))
    drifts = [row["max_wasserstein"] for row in document.get("drift", ())]
    if drifts:
        found["drift/max_wasserstein"] = max(drifts)
    found["decided"] = float(len(document["decided"]))
    return found
