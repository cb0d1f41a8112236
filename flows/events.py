"""What becomes of a line, as events of Prefect: what its automations and notifications stand on.

An event is handed to the thread that Prefect keeps for them, goes to Prefect's server and nowhere else, and stops nothing that goes on
here. Where no flow runs there are none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.context import FlowRunContext
from prefect.events import emit_event

from neuronlens.incoming import Incoming
from tasks.audits import AUDITS
from tasks.lines import Decision, Line

SEEN, AUDITED, FAILED = (f"neuronlens.checkpoint.{what}" for what in ("seen", "audited", "failed"))
GATE_FAILED, LOOKED = "neuronlens.gate.failed", "neuronlens.line.looked"
_LONGEST = 4000  # characters of an error; an event that is larger than a server takes is lost


def line_id(line: str) -> str:
    """Resource of a line, by its name."""
    return f"neuronlens.line.{line}"


def tell(line: Line, news: Incoming | Decision) -> None:
    """A checkpoint that is about to be decided on, or what was decided."""
    if isinstance(news, Incoming):
        _emit(SEEN, line, news.name, {"path": news.path, "revision": news.revision})
    elif news.error is not None:
        _emit(FAILED, line, news.checkpoint, {"error": news.error[:_LONGEST]})
    else:
        _emit(AUDITED, line, news.checkpoint, {"before": news.before, "gates": len(news.gates)}, news.audit)
        for gate in news.failed:
            told = {"before": news.before, "told": _in_words(gate)} | _finite(gate)
            _emit(GATE_FAILED, line, news.checkpoint, told, news.audit)


def looked(line: Line, decisions: Sequence[Decision]) -> None:
    """A look at a line is over."""
    errors = sum(decision.error is not None for decision in decisions)
    _emit(LOOKED, line, None, {"audited": len(decisions) - errors, "failed": errors})


def _emit(event: str, line: Line, checkpoint: str | None, payload: Mapping[str, Any], audit: str | None = None) -> None:
    if FlowRunContext.get() is None:
        return
    own = {"prefect.resource.id": line_id(line.name), "prefect.resource.name": line.name}
    related = []
    told = {"line": line.name, "source": line.source, **payload}
    if checkpoint is not None:
        related.append(own | {"prefect.resource.role": "line"})
        own = {
            "prefect.resource.id": f"neuronlens.checkpoint.{line.name}.{checkpoint}",
            "prefect.resource.name": checkpoint,
        }
        told["checkpoint"] = checkpoint
    if audit is not None:
        told["audit"] = str(line.root / AUDITS / audit)
        related.append(
            {
                "prefect.resource.id": f"neuronlens.audit.{audit}",
                "prefect.resource.name": audit,
                "prefect.resource.role": "audit",
            }
        )
    emit_event(event, resource=own, related=related, payload=told)


def _in_words(gate: Mapping[str, Any]) -> str:
    between = f"{gate['low']:.4g} to {gate['high']:.4g}"
    return f"{gate['number']} is {gate['value']:.4g} (95 %: {between}), and the gate asks for {gate['rule']}"


def _finite(gate: Mapping[str, Any]) -> dict[str, Any]:
    """Strict JSON: a bound that is infinite is none."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in gate.items()
    }
