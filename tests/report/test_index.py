"""The index is extended and never written anew: what is in it stays as it is, byte by byte."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from neuronlens.report.index import Entry, added, entry, index_html, read
from neuronlens.report.verdict import verdict
from tests.report.around import gate, numbers
from tests.report.inert import HOSTILE, Page

BASIS = "0" * 64


def made(name: str, *, line: str = "", order: int = 0, word: str = "PASS", value: float = 0.8) -> Entry:
    known = numbers(name, value, link=f"{name}/index.html")
    return entry(
        name,
        known,
        verdict([gate("g", word)]),
        dataset="topics",
        basis=BASIS,
        line=line,
        order=order,
        day="2026-11-26",
        comparison="../comparisons/x/index.html",
    )


def index_of(*entries: Entry) -> str:
    found: list[Entry] = []
    for each in entries:
        found = added(found, each)
    return index_html(found)


def names(entries: Sequence[Entry]) -> list[str]:
    return [re.findall(r"<bdi>(.*?)</bdi>", each.html)[0] for each in entries]


def test_what_is_written_is_read_again() -> None:
    text = index_of(made("one"), made("two", line="run", order=1))
    entries, whole = read(text)
    assert whole
    assert names(entries) == ["two", "one"]
    assert index_html(entries) == text
    assert [(each.line, each.order, each.basis) for each in entries] == [("run", 1, BASIS), ("", 0, BASIS)]


def test_another_audit_leaves_the_bytes_of_all_others_alone() -> None:
    before = index_of(made("one"), made("two", line="run", order=1))
    entries, _ = read(before)
    after = index_html(added(entries, made("three", line="run", order=2)))
    for each in entries:
        assert each.text in before
        assert each.text in after
    assert names(read(after)[0]) == ["three", "two", "one"]


def test_a_refreshed_audit_stays_where_it_was() -> None:
    entries, _ = read(index_of(made("one"), made("two"), made("three")))
    again = added(entries, made("two", word="FAIL"))
    assert names(again) == names(entries) == ["three", "two", "one"]
    assert "FAIL" in again[1].html
    assert again[0::2] == entries[0::2]


def test_a_checkpoint_that_comes_late_stands_behind_those_that_follow_it() -> None:
    text = index_of(
        *(made(f"c{order}", line="run", order=order) for order in (1, 3, 4)), made("c2", line="run", order=2)
    )
    assert names(read(text)[0]) == ["c4", "c3", "c2", "c1"]


def test_lines_stand_apart_the_one_with_news_on_top() -> None:
    text = index_of(made("a1", line="a", order=1), made("b1", line="b", order=1), made("a2", line="a", order=2))
    headings = re.findall(r"<h2><bdi>(.*?)</bdi>", text)
    assert headings == ["a", "b"]
    assert names(read(text)[0]) == ["a2", "a1", "b1"]


def test_an_audit_that_a_line_has_taken_up_moves_there() -> None:
    entries, _ = read(index_of(made("one"), made("c1", line="run", order=1)))
    moved = added(entries, made("one", line="run", order=2))
    assert names(moved) == ["one", "c1"]
    assert {each.line for each in moved} == {"run"}


@pytest.mark.parametrize("damage", ["cut", "changed", "doubled", "no end", "garbage", "empty"])
def test_a_damaged_index_is_noticed_and_what_is_whole_is_kept(damage: str) -> None:
    text = index_of(made("one"), made("two"), made("three"))
    entries, _ = read(text)
    broken = {
        "cut": text[: text.index(entries[2].text) + 200],
        "changed": text.replace("<bdi>one</bdi>", "<bdi>eins</bdi>"),
        "doubled": text.replace(entries[0].text, entries[0].text * 2),
        "no end": text.replace(f"<!-- end of audit {entries[2].key} -->\n", ""),
        "garbage": "no page at all",
        "empty": "",
    }[damage]
    kept, whole = read(broken)
    assert not whole
    expected = {"doubled": ["three", "two", "one"], "garbage": [], "empty": []}.get(damage, ["three", "two"])
    assert names(kept) == expected
    assert all(each in entries for each in kept)


@pytest.mark.parametrize("label", [*HOSTILE, "<!-- end of audit 0000000000000000 -->", "--><script>alert(1)</script>"])
def test_names_are_inert_and_cannot_end_an_entry(label: str) -> None:
    hostile = entry(
        label,
        numbers(label, 0.8, link="a/index.html"),
        verdict([gate(label, "NOT DECIDED", None, value=None, low=None, high=None, note=label)]),
        dataset=label,
        basis=BASIS,
        line=label,
        order=3,
    )
    text = index_of(made("one"), hostile)
    entries, whole = read(text)
    assert whole
    assert len(entries) == 2
    assert entries[0].line == label
    parsed = Page(text)
    assert parsed.open == []
    assert not parsed.count("script")
    assert not parsed.count("img")
    assert not {*"".join(parsed.text)} & {*"\x00\x07\x1b\u202e\u2066\u200b"}


def test_a_number_that_was_not_measured_has_no_strip() -> None:
    known = numbers("one", 0.8)
    bare = entry(
        "one",
        type(known)("one", {**known.values, "selectivity": None, "selectivity_low": None, "selectivity_high": None}),
        verdict([]),
        dataset="topics",
        basis=BASIS,
    )
    assert bare.html.count("<svg") == 1
    assert "<a href" not in bare.html
