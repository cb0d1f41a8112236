"""`neuronlens neuron`: a card that fits the terminal, whatever the data are called, and one line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from flows.cards import BLOCKS, marked, plot, show_card
from flows.cli import main
from neuronlens.config import Config
from neuronlens.pages.text import significant
from neuronlens.report.neurons.activations import Range
from neuronlens.report.neurons.card import NeuronCard
from tasks.versioning import Workspace
from tests import planted

SITE = "resid_post.2"
HOSTILE = ("\x1b[31mred\x07", "a\u202eb", "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 60, "x" * 300 + "\n", "[bold]b[/bold]")


@pytest.fixture
def card(audited: Path) -> NeuronCard:
    return NeuronCard.read(audited, SITE, 3)


def shown(
    card: NeuronCard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None = None
) -> str:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    show_card(card)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [None, 60, 80, 120, 200])
@pytest.mark.parametrize("names", ["plain", "hostile"])
def test_no_line_is_wider_than_the_terminal(
    card: NeuronCard,
    names: str,
    columns: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if names == "hostile":
        renamed = dict(zip((part.concept for part in card.concepts), HOSTILE, strict=False))
        card = replace(
            card,
            audit=HOSTILE[0],
            concepts=tuple(replace(part, concept=renamed[part.concept]) for part in card.concepts),
            overlaps=tuple(
                replace(pair, concept=renamed[pair.concept], other=renamed[pair.other]) for pair in card.overlaps
            ),
            top_sets=tuple(replace(sets, concepts=(*sets.concepts, *HOSTILE)) for sets in card.top_sets),
            examples=tuple(replace(row, concept=HOSTILE[2], text=HOSTILE[row.place]) for row in card.examples),
            effects=tuple({**row, "concept": renamed[row["concept"]]} for row in card.effects),
        )
    text = shown(card, monkeypatch, capsys, columns)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= (columns or 80)
    assert not set(text) & set("\x1b\x07\u202e"), (
        "nothing acts on the terminal, and nothing is coloured where nobody looks"
    )
    if names == "hostile":
        assert "\\u001b[31mred" in text
        assert "[bold]b[/bold]" in text


def test_everything_that_is_known_is_told(
    card: NeuronCard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(card, monkeypatch, capsys, 120)
    titles = [line.split("  ")[0] for line in text.splitlines() if not line.startswith(" ")]
    for title in ("activations", "saliency", "top sets", "overlap", "edits it takes part in", "highest activations"):
        assert title in titles
    for part in card.concepts:
        assert f"{part.n} rows" in text
        assert plot(part.counts) in text
        assert f"#{part.score('d_prime').rank}" in text
    for sets in card.top_sets:
        assert re.search(rf"^{sets.saliency}, top {sets.top:g} +{len(sets.concepts)}( |$)", text, re.MULTILINE)
    for row in card.examples:
        assert row.text[:40] in text


def test_numbers_are_shown_whole_or_not_at_all(
    card: NeuronCard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = tuple(replace(pair, histogram_overlap=0.5 + place / 100) for place, pair in enumerate(card.overlaps))
    many = replace(card, overlaps=alike * 4)
    for columns in range(60, 100):
        lines = (
            shown(many, monkeypatch, capsys, columns).partition("\noverlap")[2].splitlines()[1 : 1 + len(card.concepts)]
        )
        for line in lines:
            assert re.fullmatch(r"\w+ +(\w+ \d\d %, )+…", line), line


def test_an_audit_that_has_no_examples_says_so(
    card: NeuronCard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "older than they are; run it again" in shown(replace(card, examples=()), monkeypatch, capsys)


def test_a_neuron_that_never_moves_has_a_card(
    planted_audit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the planted model, all neurons but three."""
    card = NeuronCard.read(planted_audit, planted.SITES[0], 20)
    assert {part.std for part in card.concepts} == {0.0}
    text = shown(card, monkeypatch, capsys)
    assert text.count(f"  {BLOCKS[-1]}  36 rows   0 ± 0") == len(card.concepts)
    assert "none of those that the findings speak of" in text


def test_a_plot_has_a_block_for_every_bin_with_rows() -> None:
    assert plot((0, 1, 1000, 500)) == f" {BLOCKS[0]}{BLOCKS[7]}{BLOCKS[3]}"
    assert plot((0, 0, 2, 1, 4), factor=2) == f" {BLOCKS[5]}{BLOCKS[7]}"
    assert plot((0, 0)) == "  "


@pytest.mark.parametrize(
    ("bounds", "drawn"),
    [
        ([(2.0, 5.5)], "  ├──┤"),
        ([(-3.0, 2.5)], "◂─┤"),
        ([(7.0, 99.0)], "       ├─▸"),
        ([(float("-inf"), float("inf"))], "◂────────▸"),
        ([(4.1, 4.2)], "    ├"),
        ([(0.0, 1.5), (8.0, 9.5)], "├┤      ├┤"),
        ([(20.0, 30.0)], ""),
        ([], ""),
    ],
)
def test_a_range_is_marked_where_it_lies(bounds: list[tuple[float, float]], drawn: str) -> None:
    lower, upper = (tuple(pair[end] for pair in bounds) for end in (0, 1))
    assert marked(Range("", lower, upper, None, None), (0.0, 10.0), 10, "├─┤") == drawn


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", f"{SITE}:3"], "nowhere: no such folder. Name the folder of an audit: neuronlens list shows them."),
        (["AUDIT", "resid_post.1:3"], "site 'resid_post.1' was not audited. Did you mean 'resid_post.2'?"),
        (["AUDIT", f"{SITE}:16"], f"site {SITE} has no neuron 16. Its neurons are 0 to 15."),
        (["AUDIT", SITE], f"'{SITE}' names no neuron. Write it as SITE:NEURON, such as resid_post.3:117."),
        (["AUDIT", f"{SITE}:3", "--concept", "sport"], "unknown concept 'sport'. Did you mean 'sports'?"),
        (["AUDIT", f"{SITE}:3", "--mask"], "checkpoint.path: no checkpoint is named. Name where gpt2"),
        (["AUDIT", f"{SITE}:3", "--mask", "--checkpoint", "./gone"], "./gone: no such folder. Name where gpt2"),
        (
            ["AUDIT", f"{SITE}:3", "--mask", "--checkpoint", "bert"],
            "is not the checkpoint that this audit is of (gpt2, ",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_cure(
    words: list[str], told: str, audited: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["neuron", *(str(audited) if word == "AUDIT" else word for word in words)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


def test_masking_finds_the_checkpoint_from_anywhere_in_the_workspace(
    workspace_at: Callable[[Path], Workspace],
    originals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = workspace_at(tmp_path / "ours").root
    for name in ("data.csv", "aux.txt"):
        shutil.copy(originals / name, root)
    shutil.copytree(originals / "gpt2", root / "models/gpt2")
    monkeypatch.chdir(root)
    sets = [
        "fit.rows=all",
        "fit.saliency=mean_abs",
        "interventions={tau: 2.0, top: [0.3], tuned: null}",
        "evaluate.auxiliary=aux.txt",
    ]
    options = [word for one in sets for word in ("--set", one)]
    words = [
        "audit",
        "--checkpoint",
        "models/gpt2",
        "--dataset",
        "data.csv",
        "--out",
        "audits/one",
        "--no-flow",
        *options,
    ]
    assert main(words) == 0
    monkeypatch.chdir(root / "models")
    capfd.readouterr()
    assert main(["neuron", "../audits/one", f"{SITE}:3", "--mask", "--concept", "health"]) == 0
    text = capfd.readouterr().out
    assert "masked alone (zero)  for health: 3 test rows of it, 9 of others" in text
    assert re.search(r"^accuracy on it +\S+ \[\S+, \S+\] +\S+ \[\S+, \S+\]$", text, re.MULTILINE)
    unedited = json.loads((root / "audits/one/report/audit.json").read_text())["results"][0]["base_perplexity"]
    assert re.search(rf"^perplexity, {significant(unedited)} unedited( +[\d,.]+){{2}}$", text, re.MULTILINE)
    assert re.search(r"^rise of perplexity, in %( +\S+ \[\S+, \S+\]){2}$", text, re.MULTILINE)
    shutil.move(root / "aux.txt", root / "text.txt")
    shutil.move(root / "models/gpt2", root / "elsewhere")
    assert main(["neuron", "../audits/one", f"{SITE}:3", "--mask"]) == 2
    assert "lies with --checkpoint.\n" in capfd.readouterr().err
    assert main(["neuron", "../audits/one", f"{SITE}:3", "--mask", "--checkpoint", "../elsewhere", "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert [row["range"] for row in found["masked"]] == ["gaussian", "full"]
    assert found["masked"][1]["lower"] is None
    assert found["masked"][1]["perplexity"] is None
    assert err == (
        "no perplexity: the text it was measured on is not where the audit's parameters say; --auxiliary names it\n"
    )
    named = ["--checkpoint", "../elsewhere", "--auxiliary", "../text.txt", "--json"]
    assert main(["neuron", "../audits/one", f"{SITE}:3", "--mask", *named]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert {row["base_perplexity"] for row in json.loads(out)["masked"]} == {unedited}


def test_a_stream_that_knows_ascii_only_gets_ascii(
    audited: Path, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace"))
    show_card(NeuronCard.read(audited, SITE, 3))
    sys.stdout.flush()
    text = raw.getvalue().decode("ascii")
    assert "|-| mean +- 2 std" in text
    assert "\\u" not in text
