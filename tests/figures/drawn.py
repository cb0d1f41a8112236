"""An audit that is there to be drawn, and what a drawing says."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from neuronlens.pages.standalone import svg_file
from neuronlens.report.page import report
from tests.report.artifacts import CONCEPTS, config, make_audit, results_table

SITES = ("resid_post.0", "mlp_post.1")


def finished(folder: Path, concepts: tuple[str, ...] = CONCEPTS) -> Path:
    """An audit made by hand, with its report, of two sites and two shares of the neurons."""
    table = results_table(concepts, SITES, tops=(0.3, 0.5))
    settings = config("interventions.top=[0.3, 0.5]")
    inputs = make_audit(folder, settings, table, gain=0.3)
    (folder / "report").mkdir()
    report(settings, inputs, folder / "report")
    return folder


def words(drawing: Any) -> list[str]:
    """Every text of a chart or of its SVG; lines of one text in one piece."""
    root = ET.fromstring(drawing if isinstance(drawing, str) else svg_file(drawing))
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
