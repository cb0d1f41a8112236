"""Strings that would do something if a page took them for more than text, and audits that are full of them."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuronlens.config import Config
from tests.report.artifacts import CONCEPTS, config, fit_tables, make_audit, results_table

SITE = "resid_post.1"
PRODUCT = 6911 * 7919
"""What a string shows that some template engine has worked out."""
_RUN = "canary.push(1);alert(1)"
_AWAY = "http://127.0.0.1:9/x"
_MARKUP = (
    f"<script>{_RUN}</script>",
    f"</script><script>{_RUN}</script>",
    f"</style><script>{_RUN}</script>",
    f"</title><script>{_RUN}</script>",
    f"</textarea><script>{_RUN}</script>",
    f"</div></template></noscript><script>{_RUN}</script>",
    f"--><script>{_RUN}</script><!--",
    f"]]><script>{_RUN}</script><![CDATA[",
    f"<img src=x onerror={_RUN}>",
    f"<img src={_AWAY}>",
    f"<svg onload={_RUN}><script>{_RUN}</script></svg>",
    f"<svg><animate onbegin={_RUN} attributeName=x dur=1s></svg>",
    f"<svg><use href={_AWAY}#a></use><image href={_AWAY}></image></svg>",
    f"<math><mtext><img src=x onerror={_RUN}></mtext></math>",
    f"<details open ontoggle={_RUN}>",
    f"<input autofocus onfocus={_RUN}>",
    f"<video src={_AWAY}><source onerror={_RUN}></video>",
    f"<iframe srcdoc='<script>parent.{_RUN}</script>' src={_AWAY}></iframe>",
    f"<object data={_AWAY}></object><embed src={_AWAY}>",
    f"<link rel=stylesheet href={_AWAY}><link rel=preload as=image href={_AWAY}>",
    f"<style>@import url({_AWAY});*{{background:url({_AWAY})}}</style>",
    f"<meta http-equiv=refresh content='0;url={_AWAY}'>",
    f"<base href={_AWAY}/>",
    f"<form action={_AWAY}><button autofocus>go</button></form>",
    f"<a href='javascript:{_RUN}' ping={_AWAY}>here</a>",
    f"javascript:{_RUN}",
    f"data:text/html,<script>{_RUN}</script>",
    _AWAY,
    "//127.0.0.1:9/x",
    f"[here](javascript:{_RUN}) ![x]({_AWAY})",
    f"\\u003cscript\\u003e{_RUN}\\u003c/script\\u003e",
    f"&lt;script&gt;{_RUN}&lt;/script&gt;",
    f"&#60;script&#62;{_RUN}&#60;/script&#62;",
    f"%3Cscript%3E{_RUN}%3C/script%3E",
    f"` onfocus=`{_RUN}` autofocus=`",
    "{{6911*7919}}{% for x in [1] %}{{x}}{% endfor %}{# gone #}",
    "{{''.__class__.__mro__[1].__subclasses__()}}",
    "${6911*7919}#{6911*7919}<%= 6911*7919 %>",
    f"datum.constructor.constructor('{_RUN}')()",
    f"datum['a'] + [b](c.d) \\\\ toString constructor __proto__ {_RUN}",
    '=HYPERLINK("http://127.0.0.1:9/x","a")',
    "+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "#explorer?open=resid_post.1:0&q=x",
    "\u202e gnp.<script>\u2066 \u200b\u200f\ufeff",
    "nul\x00 bell\x07 esc\x1b[31m\x7f\x85\u2028\u2029",
    "\U000e0001\U000e0020 tags and \ufdd0 \U0010ffff",
    "w" * 3000,
    "<" * 500 + ">" * 500,
    "á̂̃̄̅̆̇̈" * 40,
)
_AROUND = (
    "{}",
    '">{}',
    "'>{}",
    '" autofocus onfocus="{}',
    "x\n\r\t{}\n",
    "\u202e{}\x00",
    'a,b;"c"\t{}',
    "=1+1;{}",
    "{}\u2029",
    "\uff1c{}\uff1e",
)


def strings() -> list[str]:
    """All of them, each once."""
    found = [around.replace("{}", text) for around, text in product(_AROUND, _MARKUP)]
    found += [html.escape(text) for text in _MARKUP] + [text.upper() for text in _MARKUP]
    return list(dict.fromkeys(found))


def groups(size: int) -> list[list[str]]:
    """All of them, so many at a time; of each group all but the longest have room in what a page shows of a text."""
    found = sorted(strings(), key=len)
    count = -(-len(found) // size)
    found = sorted([*found, *found[: count * size - len(found)]], key=len)
    return [found[start::count] for start in range(count)]


def names_audit(folder: Path, names: Sequence[str], warnings: Sequence[str]) -> tuple[Config, dict[str, Path]]:
    """An audit whose concepts are called so, as are checkpoint, data and notes, the prompt, and the revision.

    Its statistics are those of a few concepts, over and over: to fit so many takes long, and the page does not care.
    """
    joined = " ".join(names)
    settings = config(f"checkpoint.revision={json.dumps(joined[3000:4500])}")
    fitted = fit_tables(CONCEPTS, [SITE], settings, neurons=4)
    groups = [names[start : start + len(CONCEPTS)] for start in range(0, len(names), len(CONCEPTS))]
    repeated = {
        name: pa.concat_tables([_renamed(table, group) for group in groups])
        if "concept" in table.column_names
        else table
        for name, table in fitted.items()
    }
    return settings, make_audit(
        folder,
        settings,
        results_table(names, [SITE]),
        name=joined[:1500],
        prompt=joined[1500:3000] + "{text}",
        warnings=warnings,
        gain=0.3,
        fitted=repeated,
    )


def texts_audit(folder: Path, texts: Sequence[str]) -> tuple[Config, dict[str, Path]]:
    """An audit whose rows say so, each of which is a top example of some neuron."""
    settings, rows = config(), -(-len(texts) // len(CONCEPTS))
    neurons = -(-len(texts) // 10)
    fitted = fit_tables(CONCEPTS, [SITE], settings, neurons=neurons, rows=12)
    places = np.arange(neurons * 10)
    fitted["examples"] = pa.table(
        {
            "site": pa.array([SITE] * len(places)),
            "neuron": (places // 10).astype(np.int32),
            "end": pa.array(["highest" if place % 10 < 5 else "lowest" for place in places]),
            "place": (places % 5).astype(np.int8),
            "row": places % len(texts),
            "value": places.astype(np.float32),
        }
    )
    return settings, make_audit(folder, settings, results_table(sites=[SITE]), fitted=fitted, rows=rows, texts=texts)


def _renamed(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """A table for the first few concepts, under other names; rows of concepts without one are left out."""
    given = pa.array(CONCEPTS[: len(names)])
    for column in ("concept", "other"):
        if column in table.column_names:
            table = table.filter(pc.is_in(table[column], value_set=given))
            renamed = pa.array(names, pa.string()).take(pc.index_in(table[column], value_set=given).combine_chunks())
            table = table.set_column(table.column_names.index(column), column, renamed)
    return table
