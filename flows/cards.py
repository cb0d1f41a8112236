"""The card of a neuron in a terminal: as wide as the terminal, in characters that draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neuronlens.pages.text import MINUS, NOT_MEASURED, count, points, points_between, significant, visible
from neuronlens.report.neurons.activations import ConceptActivations, Range
from neuronlens.report.neurons.card import NeuronCard
from neuronlens.report.table import KIND_NAMES

BLOCKS = "▁▂▃▄▅▆▇█"
_GAUSSIAN, _TUNED = "├─┤", "╞═╡"
# for streams that know no more
_ASCII = str.maketrans(
    {
        **dict(zip(BLOCKS + "├─┤╞═╡◂▸", "_.-:=+*#|-|[=]<>", strict=True)),
        MINUS: "-",
        NOT_MEASURED: "-",
        "±": "+-",
        "…": "~",
    }
)
_NARROWEST = 60
_LABEL = 16
_NUMBERS = 28


def show_card(card: NeuronCard, masked: Sequence[Mapping[str, Any]] | None = None, concept: str | None = None) -> None:
    """Print a card.

    Args:
        masked: rows of `neuronlens.report.neurons.masked.mask_neuron`; None where nothing was masked.
        concept: the only one that ranges, overlaps and effects are told of; all unless told otherwise.
    """
    console = Console(highlight=False, markup=False)
    width = max(_NARROWEST, console.width)
    told = [part for part in card.concepts if concept in (None, part.concept)]
    parts = [
        _head(card),
        *_activations(card, width),
        *_tuned(told),
        *_ranks(card, told, width),
        *_top_sets(card, width),
        *_overlaps(card, told, width),
        *_effects(card, concept, width),
        *(_masked(masked) if masked else ()),
        *_examples(card, width),
    ]
    for part in parts:
        _print(console, part, width)


def _print(console: Console, part: Text | Table, width: int) -> None:
    """A line or a table, cut where it is wider; drawn in ASCII where the stream knows nothing else."""
    if console.encoding.startswith("utf"):
        console.print(part, no_wrap=True, overflow="ellipsis", width=width, crop=False)
    else:
        with console.capture() as caught:
            console.print(part, no_wrap=True, overflow="ellipsis", width=width, crop=False)
        console.file.write(caught.get().translate(_ASCII))


def _head(card: NeuronCard) -> Text:
    where = f"neuron {card.neuron} of {card.site} ({card.module}), one of {card.neurons:,}"
    return Text(f"{where}, in {visible(card.audit)}", style="bold")


def _title(text: str, note: str = "") -> Text:
    return Text.assemble("\n", (text, "bold"), f"  {note}" if note else "")


def _activations(card: NeuronCard, width: int) -> Iterator[Text]:
    """A histogram for each concept, and its ranges below it."""
    names = _labels([part.concept for part in card.concepts])
    label = max(map(cell_len, names))
    room = width - label - _NUMBERS - 4
    factor = math.ceil(len(card.concepts[0].counts) / room)
    bins = math.ceil(len(card.concepts[0].counts) / factor)
    width_of_bin = factor * (card.high - card.low) / len(card.concepts[0].counts)
    edges = card.low, card.low + bins * width_of_bin
    gaussian = next((part.gaussian.setting for part in card.concepts if part.gaussian), "range")
    yield _title("activations", f"├─┤ {gaussian}, ╞═╡ tuned: share of its fit rows, of others'")
    for name, part in zip(names, card.concepts, strict=True):
        level = f"{part.n:,} rows   {significant(part.mean)} ± {significant(part.std)}"
        yield _line(name, label, Text(plot(part.counts, factor), "cyan"), bins, level)
        for found, marks in ((part.gaussian, _GAUSSIAN), (part.tuned, _TUNED)):
            if found is not None:
                yield _line("", label, Text(marked(found, edges, bins, marks), "magenta"), bins, _held(found))
    low, high = (significant(end) for end in edges)
    gap = max(1, bins - len(low) - len(high))
    yield _line("", label, Text(f"{low}{' ' * gap}{high}", "dim"), bins, "")


def _line(name: str, label: int, drawn: Text, bins: int, told: str) -> Text:
    pad = " " * (bins - cell_len(drawn.plain))
    return Text.assemble(set_cell_size(name, label), "  ", drawn, pad, "  ", told)


def plot(counts: Sequence[int], factor: int = 1) -> str:
    """Counts per bin as blocks, as high as the highest bin; a bin with a single row can be seen.

    Args:
        factor: how many bins stand in one character.
    """
    merged = [sum(counts[start : start + factor]) for start in range(0, len(counts), factor)]
    highest = max(merged) or 1
    return "".join(BLOCKS[max(0, math.ceil(len(BLOCKS) * each / highest) - 1)] if each else " " for each in merged)


def marked(found: Range, edges: tuple[float, float], bins: int, marks: str) -> str:
    """The intervals of a range below a plot; an end that lies beyond the plot points there."""
    left, across, right = marks[0], marks[1], marks[2]
    low, high = edges
    line = [" "] * bins
    for lower, upper in zip(found.lower, found.upper, strict=True):
        if upper < low or lower >= high:
            continue
        start, end = (_bin(bound, edges, bins) for bound in (lower, upper))
        line[start : end + 1] = across * (end + 1 - start)
        line[start] = left if lower >= low else "◂"
        if end > start or upper > high:
            line[end] = right if upper <= high else "▸"
    return "".join(line).rstrip()


def _bin(bound: float, edges: tuple[float, float], bins: int) -> int:
    low, high = edges
    share = (min(max(bound, low), high) - low) / (high - low)
    return min(bins - 1, int(share * bins))


def _held(found: Range) -> str:
    """What a range holds of the concept's rows and of the others', and its bounds."""
    bounds = " or ".join(_between(*pair) for pair in zip(found.lower, found.upper, strict=True)) or "nowhere"
    if found.dose_target is None or found.dose_complement is None:
        return bounds
    return f"{100 * found.dose_target:.0f} %, {100 * found.dose_complement:.0f} %  {bounds}"


def _between(lower: float, upper: float) -> str:
    if math.isinf(lower) and math.isinf(upper):
        return "everywhere"
    if math.isinf(lower) or math.isinf(upper):
        return f"up to {significant(upper)}" if math.isinf(lower) else f"from {significant(lower)}"
    return f"{significant(lower)} to {significant(upper)}"


def _tuned(told: Sequence[ConceptActivations]) -> Iterator[Text]:
    tuned = [(part.concept, part.tuned.setting) for part in told if part.tuned is not None]
    if tuned:
        yield _title("tuned", "what the validation rows chose, where this neuron takes part")
        names = _labels([concept for concept, _ in tuned])
        for name, (_, setting) in zip(names, tuned, strict=True):
            yield Text(f"{set_cell_size(name, max(map(cell_len, names)))}  {setting}")


def _ranks(card: NeuronCard, told: Sequence[ConceptActivations], width: int) -> Iterator[Text | Table]:
    """Scores with ranks, by as many saliencies as there is room for: those that rank neurons first."""
    ranking = [sets.saliency for sets in card.top_sets]
    known = [score.saliency for score in told[0].scores]
    names = _labels([part.concept for part in told])
    others = [name for name in known if name not in ("mean", "random")]  # the mean is told above
    columns = [name for name in dict.fromkeys([*ranking, *others]) if name in known and name != "random"]
    cells = {
        name: [f"{significant(score.value)} #{score.rank}" for score in (part.score(name) for part in told)]
        for name in columns
    }
    room = width - max(map(cell_len, names))
    table = _table("", left=1)
    shown = []
    for name in columns:
        room -= 2 + max(map(len, (name, *cells[name])))
        if room >= 0:
            shown.append(name)
            table.add_column(name, justify="right", no_wrap=True)
    for place, name in enumerate(names):
        table.add_row(name, *(cells[column][place] for column in shown))
    yield _title("saliency", f"score and #rank among {card.neurons:,} neurons")
    yield table


def _top_sets(card: NeuronCard, width: int) -> Iterator[Text | Table]:
    yield _title("top sets", "concepts among whose most salient neurons it is")
    table = _table("", left=1)
    table.show_header = False
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for sets in card.top_sets:
        names = "all" if len(sets.concepts) == len(card.concepts) else ", ".join(map(visible, sets.concepts))
        ranking = f"{sets.saliency}, top {sets.top:g}"
        table.add_row(ranking, str(len(sets.concepts)), _cut(names, width - 30))
    yield table


def _overlaps(card: NeuronCard, told: Sequence[ConceptActivations], width: int) -> Iterator[Text]:
    """For each concept the others, the most alike first."""
    yield _title("overlap", "how alike concepts are in this neuron; 100 %: no difference")
    names = _labels([part.concept for part in told])
    label = max(map(cell_len, names))
    for name, part in zip(names, told, strict=True):
        own = [pair for pair in card.overlaps if part.concept in (pair.concept, pair.other)]
        alike = sorted(own, key=lambda pair: -pair.histogram_overlap)
        others = [
            f"{visible(pair.other if pair.concept == part.concept else pair.concept, _LABEL)} {100 * pair.histogram_overlap:.0f} %"
            for pair in alike
        ]
        yield Text(f"{set_cell_size(name, label)}  {_listed(others, width - label - 2)}")


def _effects(card: NeuronCard, concept: str | None, width: int) -> Iterator[Text | Table]:
    told = [row for row in card.effects if concept in (None, row["concept"])]
    yield _title("edits it takes part in", "drops of accuracy in points [95 % interval]")
    if not told:
        yield Text("none of those that the findings speak of")
        return
    table = _table("", left=2)
    measured = ["target_accuracy_drop", "complement_accuracy_drop", *(["selectivity"] if width >= 100 else [])]
    for name in ("target", "others", "selectivity")[: len(measured)]:
        table.add_column(name, justify="right", no_wrap=True)
    for name, rows in groupby(told, key=lambda row: str(row["concept"])):
        shown = _labels([name])[0]
        for row in rows:
            how = f"{KIND_NAMES[row['kind']]}, {row['saliency']}" if row["role"] == "sweep" else KIND_NAMES[row["kind"]]
            table.add_row(shown, how, *(_effect(row, each) for each in measured))
            shown = ""
    yield table


def _masked(masked: Sequence[Mapping[str, Any]]) -> Iterator[Text | Table]:
    """What it carries alone: a measure a line, its range and the whole neuron side by side."""
    first = masked[0]
    rows = f"{count(first['n_target'], 'test row')} of it, {first['n_complement']:,} of others"
    yield _title(f"masked alone ({first['operator']})", f"for {_cut(first['concept'], _LABEL)}: {rows}")
    table = _table("drop, in points [95 % interval]", left=1)
    for row in masked:
        whole = row["range"] == "full"
        table.add_column(
            "whole neuron" if whole else _between(row["lower"], row["upper"]), justify="right", no_wrap=True
        )
    for name, words in (
        ("target_accuracy_drop", "accuracy on it"),
        ("complement_accuracy_drop", "accuracy on others"),
        ("selectivity", "selectivity"),
        ("target_confidence_drop", "confidence on it"),
        ("complement_confidence_drop", "confidence on others"),
        ("confidence_selectivity", "selectivity in confidence"),
    ):
        table.add_row(words, *(_effect(row, name) for row in masked))
    if first["base_perplexity"] is not None:
        unedited = f"perplexity, {significant(first['base_perplexity'])} unedited"
        table.add_row(unedited, *(significant(row["perplexity"]) for row in masked))
        table.add_row("rise of perplexity, in %", *map(_rise, masked))
    yield table


def _examples(card: NeuronCard, width: int) -> Iterator[Text]:
    if not card.examples:
        yield _title("examples", "none: this audit is older than they are; run it again")
    for end, found in groupby(card.examples, key=lambda example: example.end):
        yield _title(f"{end} activations", "of all fit rows")
        rows = [(f"{significant(row.value):>7}", _labels([row.concept])[0], row.text) for row in found]
        label = max(cell_len(name) for _, name, _ in rows)
        for value, name, text in rows:
            yield Text(f"{value}  {set_cell_size(name, label)}  {_cut(text, width - label - 11)}")


def _rise(row: Mapping[str, Any]) -> str:
    """Of perplexity, in percent: a single neuron's is seldom seen in the perplexities themselves."""
    value, low, high = (significant(100 * (row[f"perplexity_ratio{end}"] - 1)) for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _effect(row: Mapping[str, Any], name: str) -> str:
    return f"{points(row[name])} {points_between(row[f'{name}_low'], row[f'{name}_high'])}".rstrip()


def _table(first: str, left: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=True)
    for name in (first, *[""] * (left - 1)):
        table.add_column(name, no_wrap=True)
    return table


def _labels(names: Sequence[str]) -> list[str]:
    return [_cut(name, _LABEL) for name in names]


def _listed(items: Sequence[str], cells: int) -> str:
    """As many items as there is room for, each of them whole: half a number is another number."""
    shown = ", ".join(items)
    for kept in range(len(items) - 1, -1, -1):
        if cell_len(shown) <= cells:
            break
        shown = ", ".join([*items[:kept], "…"])
    return shown


def _cut(text: str, cells: int) -> str:
    """Untrusted text on one line of so many cells."""
    cut = Text(visible(text))
    cut.truncate(max(1, cells), overflow="ellipsis")
    return cut.plain
