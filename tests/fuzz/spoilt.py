"""Ways in which what is read may be other than it was written."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

NASTY = st.sampled_from(
    [
        "../../x",
        "'; DROP TABLE audits; --",
        "a\x00b",
        "\x1b[31mred",
        "\u202eabc",
        "\ud800",
        "CON",
        "x" * 300,
        "!!python/object/apply:os.system [id]",
        "\n",
        "",
        "resid_post.1",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoilt_bytes(draw: st.DrawFn, whole: bytes, *, since: int = 0) -> bytes:
    """Some bytes from `since` on replaced, the end cut off, or something behind it."""
    place = draw(st.integers(since, len(whole)))
    how = draw(st.sampled_from(["replace", "flip", "cut", "append"]))
    if how == "cut":
        return whole[:place]
    new = draw(st.binary(min_size=1, max_size=16))
    if how == "append":
        return whole + new
    if how == "flip":
        return whole[:place] + new + whole[place + len(new) :]
    return whole[:place] + new + whole[place + draw(st.integers(0, 64)) :]


@st.composite
def spoilt_json(draw: st.DrawFn, whole: Any) -> Any:
    """A value somewhere in a document replaced, taken out, or put in."""
    made = copy.deepcopy(whole)
    where = made
    while True:
        keys = sorted(where) if isinstance(where, dict) else range(len(where))
        key = draw(st.sampled_from(keys))
        if not isinstance(where[key], dict | list) or not where[key] or draw(st.integers(0, 3)) == 0:
            break
        where = where[key]
    how = draw(st.sampled_from(["replace", "take out", "put in"]))
    if how == "take out":
        del where[key]
    elif how == "put in" and isinstance(where, dict):
        where[draw(NASTY)] = draw(JSON)
    else:
        where[key] = draw(JSON)
    return made
