"""The program behind the table's tests: reads a cell a line, and answers each with a line of what is not as it should be.

It does nothing but import and fork; threads that it had started would be missing in its children.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from tests.faults.cases import Cases
from tests.faults.cells import Cell
from tests.faults.runs import prepare_process


def main(folder: Path) -> None:
    """Until there are no more cells."""
    prepare_process()
    cases = Cases.begin(folder)
    for line in sys.stdin:
        try:
            found = cases.problems(Cell(**json.loads(line)))
        except Exception:  # of one cell, whose test tells it; the cells behind it want this process
            found = [traceback.format_exc()]
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
