"""The plan of an audit: which way its work takes, and what that is expected to cost, told before it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from neuronlens.activations.batching import Ints, collate, padding_of, split_batches
from neuronlens.activations.disk import Stored
from neuronlens.activations.hidden import Keeper
from neuronlens.activations.memory import batch_budget
from neuronlens.activations.ordinary import TEXTS, looked_into
from neuronlens.activations.passes import one_token_will_do
from neuronlens.config import Config, InterventionParams, TunedParams
from neuronlens.encoding import Encoder, encoder_for, longest_input
from neuronlens.evaluation.cost import Route, Shape, deciding_route, joint_route, text_route
from neuronlens.evaluation.shared_prompt import can_share, shared_tokens
from neuronlens.prepare import Inputs, check
from neuronlens.ranges.rowless import without_rows
from neuronlens.sites import Site, site_width
from neuronlens.text_files import read_documents, spare_documents
from neuronlens.values import WIDTHS

# of the fit, on one core: a value, with every statistic, test and ranking; a value once more for each concept that it is told from, put in
# order; a neuron's range, with its doses, and as a row of the artifact
_VALUE_SECONDS, _ORDER_SECONDS, _RANGE_SECONDS = 4e-7, 8e-8, 1.2e-5
_MEASURED = 2  # times that a batch is run, of which the faster counts


@dataclass(frozen=True)
class Step:
    """A part of a stage.

    Attributes:
        stage: which.
        what: in words.
        passes: its work in plain forward passes over all rows; None where the model does not run.
        seconds: expected.
    """

    stage: str
    what: str
    passes: float | None
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What an audit is expected to do.

    Attributes:
        rows: how many there are of each split.
        tokens: of all rows.
        padding: share of the batches that holds no token.
        batch_tokens: of a batch, padding included.
        pass_seconds: of a plain forward pass over all rows, from one batch that was run.
        stored_bytes: that stay on disk of the activations, nearly.
        running_bytes: that are taken while it runs.
        keeps_rows: whether activations of single rows are kept, or their statistics.
        notes: what a reader should know of that, and of what is left out therefore.
        steps: in order.
    """

    rows: Mapping[str, int]
    tokens: int
    padding: float
    batch_tokens: int
    pass_seconds: float
    stored_bytes: int
    running_bytes: int
    keeps_rows: bool
    notes: Sequence[str]
    steps: Sequence[Step]

    @property
    def passes(self) -> float:
        """Of all steps."""
        return sum(step.passes or 0.0 for step in self.steps)

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True)
class Edits:
    """How many edits a site has, at most: those that turn out to do the same are run once.

    Attributes:
        validation, test: on the rows of these splits. Of the tuned method's candidates, test rows see those that are chosen or lie on a
            path.
        joint: of several sites together, over all sites.
    """

    validation: int
    test: int
    joint: int

    @classmethod
    def of(cls, config: Config, concepts: int, sites: int, *, validated: bool) -> Edits:
        """What a configuration asks for.

        Args:
            concepts: C.
            sites: how many there are.
            validated: whether there are validation rows.
        """
        asked = config.interventions
        swept = _settings(asked, asked.operators)
        ranked = swept * len(config.fit.saliency)
        # random neurons are one control for all rankings; another concept's ranges are among the edits already
        control = {"random_neurons": swept, "random_ranges": ranked, "leace": 1}
        controls = sum(count for kind, count in control.items() if kind in asked.controls)
        tuned = 0 if asked.tuned is None else _settings(asked.tuned, asked.tuned.operators)
        tuned *= 1 if asked.tuned is None else len(asked.tuned.saliency) * len(asked.tuned.gate)
        own = len({"random_neurons", "random_ranges"} & {*asked.controls}) if tuned else 0  # of what is chosen
        test = ranked + controls + tuned + own
        counts = {min(count, sites) for count in asked.joint} - {1} if tuned and validated else set()
        return cls(concepts * (ranked + tuned if tuned and validated else 0), concepts * test, concepts * len(counts))


def _settings(asked: InterventionParams | TunedParams, operators: Sequence[str]) -> int:
    """Kinds of range, widths, shares of the neurons and operators."""
    widths = {"tau": len(asked.tau), "threshold": len(asked.threshold), None: 1}
    return len(asked.top) * len(operators) * sum(widths[WIDTHS[kind]] for kind in asked.ranges)


def _ranges(config: Config) -> float:
    """How many ranges a neuron has for a concept, at most and on average over a site."""
    asked = config.interventions
    ranked = _shares(asked)
    total = ranked * len(config.fit.saliency)
    if asked.tuned is not None:
        tuned = _shares(asked.tuned) * len(asked.tuned.gate)
        ranked, total = ranked + tuned, total + tuned * len(asked.tuned.saliency)
    # random neurons are one control for all rankings
    control = {"random_neurons": ranked, "random_ranges": total, "other_concept": total}
    return total + sum(count for kind, count in control.items() if kind in asked.controls)


def _shares(asked: InterventionParams | TunedParams) -> float:
    """Shares of the neurons, once for each of the kinds of range and widths."""
    return sum(asked.top) / len(asked.top) * _settings(asked, ("any",))


def plan(config: Config) -> Plan:
    """Check the inputs, run one batch through the blocks to know the machine's speed, and count.

    Raises:
        UserError: the configuration, the data or the checkpoint cannot be audited.
    """
    inputs = check(config)
    checkpoint, split, labels = inputs.checkpoint, inputs.dataset.split, inputs.labels
    encoded = encoder_for(checkpoint, config.dataset, labels.room(config.evaluate.scoring)).encode(inputs.dataset.text)
    lengths = [len(ids) for ids in encoded]
    tokens, budget = sum(lengths), batch_budget(config.extract.batch_tokens, checkpoint.model)
    batches = split_batches(lengths, split, budget)
    every = [rows for members in batches.values() for rows in members]
    shape = Shape.of(checkpoint, tokens / len(lengths))
    rate = _token_seconds(inputs, encoded, every[len(every) // 2])
    widths = [site_width(checkpoint.config, site) for site in inputs.sites]
    dtype = str(checkpoint.model.dtype).removeprefix("torch.")
    stored = Stored.of(config.extract, widths, len(split), len(labels.concepts), dtype)
    notes = [stored.sentence] if stored.sentence else []
    if not stored.keeps_rows:
        config, told = without_rows(config)
        notes += told
    edits = Edits.of(config, len(labels.concepts), len(inputs.sites), validated="validation" in batches)

    def step(stage: str, what: str, work: float) -> Step:
        return Step(stage, what, work / tokens, work * rate)

    values = sum(widths)
    spared = _spared(config, inputs, batches, lengths)
    what = f"{len(inputs.sites)} site(s), one pass{', of the last block what one token needs' if spared else ''}"
    if 0 < spared < tokens:
        what += f" on {spared / tokens:.0%} of the tokens"
    steps = [step("extract", what, tokens - (shape.block - shape.entrance) * spared + shape.head * len(lengths))]
    documents, spare = _documents(config, inputs)
    if spare:
        steps.append(step("extract", f"ordinary tokens: {len(spare)} documents", sum(spare)))
    rows = {name: [i for i, own in enumerate(split) if own == name] for name in batches}
    concepts, ranges = len(labels.concepts), round(values * len(labels.concepts) * _ranges(config))
    seconds = values * len(rows["fit"]) * (_VALUE_SECONDS + _ORDER_SECONDS * concepts) + ranges * _RANGE_SECONDS
    what = f"{values:,} neurons, {concepts} concepts, {ranges:,} ranges"
    steps.append(Step("fit", what, None, seconds))
    keeper = Keeper.of_sites(checkpoint.model, inputs.sites, batches, lengths)
    for name, count in (("validation", edits.validation), ("test", edits.test)):
        own = [encoded[i] for i in rows.get(name, ())]
        if not own or not count:
            continue
        size = sum(map(len, own))
        what, again = "from hidden states of the pass of extract", 0
        if not keeper.keeps(name):
            what, again = "once more, as its hidden states would not fit into memory", size
        steps.append(step("evaluate", f"{name}: unedited, {what}", again + shape.head * len(own)))
        together = shared_tokens(own) if can_share(checkpoint.model) else []
        routes = {
            site: deciding_route(
                shape,
                site,
                shared=len(together) * len(own) / size,
                device=checkpoint.model.device.type,
                batch=budget,
                some_logits=config.evaluate.scoring == "labels",
            )
            for site in inputs.sites
        }
        found = _by_route(routes, count, len(own), size)
        steps += [step("evaluate", f"{name}: {what}", work) for what, work in found]
        if name == "test" and edits.joint:
            route = joint_route(shape, min(inputs.sites))
            work = again + shape.head * len(own) + route.work(edits.joint, len(own), size)
            steps.append(step("evaluate", f"joint: {edits.joint:,} edits of the best sites by {route.name}", work))
    if documents:
        size, width = sum(documents), int(checkpoint.config.hidden_size)
        routes = {site: text_route(shape, site, width, config.interventions.top) for site in inputs.sites}
        found = [("unedited", (1 + shape.head) * size), *_by_route(routes, edits.test, len(documents), size)]
        if edits.joint:
            first = text_route(shape, min(inputs.sites), width, config.interventions.top)
            work = first.work(edits.joint, len(documents), size)
            found.append((f"{edits.joint:,} joint edits by at most {first.name}", work))
        steps += [step("evaluate", f"perplexity: {what}", work) for what, work in found]
    padded = sum(len(members) * lengths[members[-1]] for members in every)
    counts = {name: len(members) for name, members in rows.items()}
    kept = (stored.final, stored.most, stored.keeps_rows, notes)
    return Plan(counts, tokens, 1 - tokens / padded, budget, tokens * rate, *kept, steps)


def _spared(config: Config, inputs: Inputs, batches: Mapping[str, Sequence[Ints]], lengths: Sequence[int]) -> int:
    """Tokens that extraction's last block does not follow (see `neuronlens.activations.passes`)."""
    pooling, model = config.extract.pooling, inputs.checkpoint.model
    drawn, _ = looked_into(inputs.dataset.split, config.seed)
    return sum(
        lengths[row] - 1
        for split, members in batches.items()
        for rows in members
        if one_token_will_do(split, pooling, model) and {*drawn}.isdisjoint(rows.tolist())
        for row in rows.tolist()
    )


def _by_route(routes: Mapping[Site, Route], edits: int, rows: int, tokens: int) -> list[tuple[str, float]]:
    """(in words, work) of the edits of all sites, those on the same way together."""
    found: dict[str, tuple[int, float]] = {}
    for route in routes.values():
        sites, work = found.get(route.name, (0, 0.0))
        found[route.name] = sites + 1, work + route.work(edits, rows, tokens)
    return [(f"{edits * sites:,} edits by {name}", work) for name, (sites, work) in found.items()]


def _documents(config: Config, inputs: Inputs) -> tuple[list[int], list[int]]:
    """Tokens of each document for perplexity, and of each that shows what ordinary tokens look like."""
    if config.evaluate.auxiliary is None or inputs.checkpoint.kind == "classifier":
        return [], []
    encoder = Encoder(inputs.checkpoint.tokenizer, min(config.dataset.max_tokens, longest_input(inputs.checkpoint)))
    given = read_documents(config.evaluate.auxiliary, config.evaluate.auxiliary_rows)
    spare = spare_documents(config.evaluate)[:TEXTS]
    return [len(ids) for ids in encoder.encode(given)], [len(ids) for ids in encoder.encode(spare)] if spare else []


def _token_seconds(inputs: Inputs, encoded: Sequence[Sequence[int]], rows: Ints) -> float:
    """Seconds of a token in a plain pass through the blocks, from one batch."""
    model = inputs.checkpoint.model
    batch = collate(encoded, rows, pad_id=padding_of(inputs.checkpoint), device=model.device)
    seconds = []
    with torch.inference_mode():
        for _ in range(_MEASURED):
            start = time.perf_counter()
            hidden = model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
            hidden[0, 0, 0].item()  # an accelerator is waited for
            seconds.append(time.perf_counter() - start)
    return min(seconds) / sum(len(encoded[row]) for row in rows)
