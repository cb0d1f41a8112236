"""How pages are made of templates: text from data is escaped by Jinja, after every invisible character in it has been spelt out."""

from __future__ import annotations

import base64
import hashlib
import math

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neuronlens.report import text, theme


def page_environment() -> Environment:
    """Templates of this package, with the filters that write numbers."""
    environment = Environment(
        loader=PackageLoader("neuronlens.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "points": text.points,
        "between": text.points_between,
        "number": text.number,
        "significant": text.significant,
        "plain": "{:g}".format,
        "count": text.count,
        "ratio": lambda value: text.significant(math.exp(value)),
    }
    return environment


def page_style(environment: Environment) -> tuple[Markup, str]:
    """The style sheet of every page, and its hash for the Content-Security-Policy."""
    style = theme.variables() + environment.get_template("report.css").render()
    return Markup(style), base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _shown(value: object) -> object:
    return text.visible(value, limit=2000) if isinstance(value, str) and not isinstance(value, Markup) else value
