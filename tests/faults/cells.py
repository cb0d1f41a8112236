"""The table of fault injection: what goes wrong, at which stage, and when.

A cell is one of `CELLS`. What is missing from the product of its columns cannot be:

* prepare, fit, report and compare are not made in parts, so that no part of theirs is under way, is hurt or loses its worker;
* prepare reads no artifact, so that none before it can be hurt;
* nothing is written any more when a stage has taken its place, so that no disk is full and nothing is forbidden *after* it. What comes
  next is DVC's record of it, in the moments `recorded` and `locked`; a comparison has no record;
* memory is asked for while a stage computes or is recorded, and no longer where its folder only changes its name;
* a read error after a stage is one of whoever reads the stage next, of which a comparison has none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from neuronlens.stages import STAGES

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
REFUSALS = ("no-space", "no-permission")
HURT = ("truncated", "flipped", "deleted")
IN_PARTS = tuple(name for name, stage in STAGES.items() if stage.in_parts)
COMPARE, PAGE = "compare", "page"


@dataclass(frozen=True)
class Cell:
    """One case.

    Attributes:
        fault: what goes wrong.
        stage: whose run it disturbs; `page` is what is written around an audit when its stages are there.
        moment: `before` the stage's first write; `during`, a data file is half written; `described`, its manifest is; `part`, one part is
            whole and another half written; `exchanged`, the old artifact has left and the new one has not arrived; `after`, it has.
            `recorded` and `locked`: DVC is about to take its files, or has, and dvc.lock is half written. Of files that are hurt
            between two runs: `data` and `manifest` of the stage, `input`, the stage before, `part`. Of a worker: `before`, `during`,
            `after` its part, each worker in its turn where `always`.
    """

    fault: str
    stage: str
    moment: str

    @property
    def name(self) -> str:
        """Of the test."""
        return f"{self.fault}-{self.stage}-{self.moment}"


def _cells() -> list[Cell]:
    found: list[Cell] = []

    def add(faults: tuple[str, ...], stages: tuple[str, ...], *moments: str) -> None:
        found.extend(Cell(fault, stage, moment) for fault in faults for stage in stages for moment in moments)

    stages = tuple(STAGES)
    add(SIGNALS, stages, "before", "during", "described", "exchanged", "after", "recorded", "locked")
    add(SIGNALS, (COMPARE,), "before", "during", "described", "exchanged", "after")
    add(REFUSALS, stages, "before", "during", "described", "exchanged", "recorded", "locked")
    add(REFUSALS, (COMPARE,), "before", "during", "described", "exchanged")
    add(("memory",), stages, "before", "during", "described", "recorded")
    add(("memory",), (COMPARE,), "before", "during")
    add((*SIGNALS, *REFUSALS, "memory"), IN_PARTS, "part")
    add((*SIGNALS, *REFUSALS), (PAGE,), "during", "exchanged")
    add(("read-error",), stages, "before", "during", "after")
    add(("read-error",), (COMPARE,), "before", "during")
    add(HURT, (*stages, COMPARE), "data", "manifest")
    add(HURT, stages[1:], "input")
    add(HURT, IN_PARTS, "part")
    add(("stale-lock",), stages, "before", "during", "after", "locked")
    add(("stale-lock",), (COMPARE,), "before", "after")
    add(("killed-worker",), IN_PARTS, "before", "during", "after", "always")
    return found


CELLS = _cells()

# each fault and each stage once; all of them are looked at by `make faults`
SAMPLE = [
    Cell("SIGKILL", "evaluate", "part"),
    Cell("SIGTERM", "report", "during"),
    Cell("SIGINT", "fit", "after"),
    Cell("no-space", "extract", "during"),
    Cell("no-permission", "page", "during"),
    Cell("memory", "compare", "during"),
    Cell("read-error", "prepare", "during"),
    Cell("truncated", "fit", "data"),
    Cell("flipped", "evaluate", "input"),
    Cell("deleted", "extract", "part"),
    Cell("stale-lock", "extract", "during"),
    Cell("killed-worker", "evaluate", "during"),
    Cell("SIGKILL", "extract", "locked"),
    Cell("deleted", "fit", "manifest"),
]


def main() -> None:
    """Print how many cells there are, by fault and stage."""
    stages = list(dict.fromkeys(cell.stage for cell in CELLS))
    rows = [["", *stages, "all"]]
    for fault in dict.fromkeys(cell.fault for cell in CELLS):
        own = [cell.stage for cell in CELLS if cell.fault == fault]
        rows.append([fault, *(str(own.count(stage)) for stage in stages), str(len(own))])
    for row in rows:
        sys.stdout.write(f"{row[0]:13} " + " ".join(f"{value:>8}" for value in row[1:]) + "\n")
    sys.stdout.write(f"{len(CELLS)} cells of fault injection\n")


if __name__ == "__main__":
    main()
