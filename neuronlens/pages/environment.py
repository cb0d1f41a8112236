"""How pages are made of templates: text from data is escaped by Jinja, after every invisible character in it has been spelt out."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neuronlens.pages import text, theme
from neuronlens.pages.drawing import Figure

ROOMS = ("pages", "report", "comparison")
"""Packages that have templates."""


def page(template: str, values: Mapping[str, Any], script: str | None = None) -> str:
    """A whole page.

    Args:
        template: a name among those of all rooms, which extends base.html.
        values: what it shows.
        script: the page's only script; a page without one runs none.
    """
    environment = _environment()
    style = theme.variables() + environment.get_template("page.css").render()
    return environment.get_template(template).render(
        **values,
        style=Markup(style),
        style_hash=_hash(style),
        script=None if script is None else Markup(script),
        script_hash=None if script is None else _hash(script),
    )


def fragment(template: str, values: Mapping[str, Any]) -> str:
    """A part of a page that is written on its own, such as an entry of a list."""
    return _environment().get_template(template).render(**values)


def template_text(name: str) -> str:
    """The text of a template as it is, for scripts."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(f"neuronlens.{room}") for room in ROOMS]),
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
        "svg": _svg,
    }
    return environment


def _svg(figure: Figure) -> Markup:
    """Charts alone are put in as they are: their text is ours, their elements are checked."""
    return Markup(figure.svg())


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shown(value: object) -> object:
    return text.visible(value, limit=2000) if isinstance(value, str) and not isinstance(value, Markup) else value
