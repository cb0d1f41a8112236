"""Every short cut of evaluation gives what the long way gives: each row alone and unpadded, each edit in a whole pass with its hooks.

Shapes are drawn, numbers come from a seed. Membership in a range is all or nothing, so a value that lies on the edge of one, nearer than
two orders of additions agree, says nothing about a short cut: the few rows and edits where one does are left out.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from neuronlens.activations import head
from neuronlens.activations.batching import collate, token_budget_batches
from neuronlens.activations.head import deciding_hidden
from neuronlens.activations.hidden import KeptBatch, blocks_before, off_device, record_blocks
from neuronlens.activations.readout import has_vocabulary
from neuronlens.evaluation import deciding, text
from neuronlens.evaluation.scoring import _ROUNDINGS, all_deciding
from neuronlens.evaluation.shared_prompt import SharedPrompt
from neuronlens.evaluation.text import text_losses
from neuronlens.evaluation.unembedding import Unembedding
from neuronlens.interventions.edit import edit
from neuronlens.interventions.kinds import Intervention, LinearErasure
from neuronlens.interventions.operators import OPERATORS, Target
from neuronlens.sites import COMPONENTS, Site, layer_count, site_width
from tests import reference
from tests.conftest import hooks
from tests.models import CLASSIFIERS, ENCODERS, FAMILIES, HEADS, VOCABULARY, WORDS, random_model, with_random_gains

TOLERANCE = 1e-5
# Where an edit leaves a token little spread, its norm multiplies roundings, and a whole pass itself is further from one in float64. A short
# cut may then be as far.
ROUNDINGS = 4
MARGIN = 3e-6  # of what a block gives, two orders of additions differ by less
LAYERS_KEY = {"distilbert": "n_layers", "gpt2": "n_layer", "bloom": "n_layer"}
FIRST_ORDINARY = 4  # the tokens before it are special ones
EVERYWHERE = 1 << 30


@cache
def model_of(family, layers=3, dtype=torch.float32, **overrides):
    """A random model, gains and biases included."""
    model = with_random_gains(random_model(family, **{LAYERS_KEY.get(family, "num_hidden_layers"): layers} | overrides))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)  # buffers stay float32, as in a model that is loaded
    return model


@dataclass(frozen=True)
class Kind:
    """What an edit is like.

    Attributes:
        operator: of ranges; `erasure` is no range at all.
        intervals: of each neuron; 0 for the whole neuron.
        gated: whether a third of the neurons must be in range.
    """

    operator: str = "zero"
    positions: str = "all"
    pooling: str = "auto"
    intervals: int = 1
    gated: bool = False

    def at(self, config, site, rng):
        """An edit of some neurons of a site."""
        width = site_width(config, site)
        if self.operator == "erasure":
            vectors = torch.from_numpy(rng.normal(size=(3, width)).astype(np.float32)) / width**0.5
            return LinearErasure(site, *vectors, self.positions, self.pooling)
        neurons = torch.from_numpy(np.sort(rng.permutation(width)[: rng.integers(1, width + 1)]))
        count = len(neurons)
        if self.intervals:
            edges = rng.normal(scale=0.7, size=(count, 1)) + rng.uniform(0.2, 1.5, (count, 2 * self.intervals)).cumsum(
                axis=1
            )
            lower, upper = (torch.from_numpy((edges[:, side::2] - 1).astype(np.float32)) for side in (0, 1))
        else:
            upper = torch.full((count, 1), torch.inf)
            lower = -upper
        numbers = torch.from_numpy(rng.normal(size=(5, count)).astype(np.float32))
        numbers[[1, 3]] = numbers[[1, 3]].abs() + 0.5  # spreads
        made = Intervention(
            site,
            neurons,
            lower,
            upper,
            Target(lower[:, 0], upper[:, 0], *numbers),
            self.operator,
            self.positions,
            self.pooling,
        )
        if not self.gated:
            return made
        evidence = torch.stack([torch.ones(1, count), torch.zeros(1, count)])
        return replace(made, evidence=evidence, threshold=torch.tensor([count / 3]))


@dataclass(frozen=True)
class Case:
    """What is run, and how.

    Attributes:
        lengths: own tokens of each row.
        padding: `none` makes all rows as long as the first.
        kinds: of the edits: each site gets one of them, and one site gets all.
        budget: tokens of a batch.
        shared: tokens that all rows begin with.
        room: bytes of keys and values of the shared tokens.
        together: edits in one call.
        some: how many tokens of the vocabulary are asked for; 0 for all.
        kept: whether the unedited pass is another's.
        at_once: bytes of logits at a time.
        known_head: whether losses may look at the unembedding.
        half: whether half of the sites, drawn, will do.
    """

    lengths: tuple[int, ...]
    padding: str = "right"
    kinds: tuple[Kind, ...] = (Kind(),)
    budget: int = EVERYWHERE
    shared: int = 0
    room: int = EVERYWHERE
    together: int = 1
    some: int = 0
    kept: bool = False
    at_once: int = EVERYWHERE
    known_head: bool = True
    half: bool = False
    seed: int = 0

    def rows(self, family, rng):
        """Token ids of each row."""
        vocabulary = FIRST_ORDINARY + len(WORDS) if family in ENCODERS else VOCABULARY
        lengths = [self.lengths[0]] * len(self.lengths) if self.padding == "none" else self.lengths
        beginning = rng.integers(FIRST_ORDINARY, vocabulary, self.shared).tolist()
        return [[*beginning, *rng.integers(FIRST_ORDINARY, vocabulary, length).tolist()] for length in lengths]

    def edits(self, config, rng):
        """In no order."""
        sites = [Site(layer, component) for layer in range(layer_count(config)) for component in COMPONENTS]
        if self.half:
            sites = [sites[i] for i in sorted(rng.permutation(len(sites))[: len(sites) // 2].tolist())]
        pairs = [(site, self.kinds[i % len(self.kinds)]) for i, site in enumerate(sites)]
        many = sites[rng.integers(len(sites))]
        pairs += [(many, kind) for kind in self.kinds]
        return [pairs[i][1].at(config, pairs[i][0], rng) for i in rng.permutation(len(pairs))]

    def batches(self, encoded):
        """As evaluation makes them, padded on the case's side."""
        side = "left" if self.padding == "left" else "right"
        chosen = token_budget_batches([len(row) for row in encoded], self.budget)
        return [collate(encoded, rows, pad_id=0, device="cpu", side=side) for rows in chosen]


kinds = st.builds(
    Kind,
    st.sampled_from([*OPERATORS, "scale:-1.5", "dampen:2", "steer:-2", "erasure"]),
    st.sampled_from(["all", "pooled", "last", "prompt", "generated"]),
    st.sampled_from(["auto", "auto", "first", "last", "mean", "max"]),
    st.integers(0, 2),
    st.booleans(),
)


def cases(family):
    """Encoders pad on the right."""
    return st.builds(
        Case,
        st.integers(1, 6).flatmap(
            lambda count: st.lists(st.integers(1, 14), min_size=count, max_size=count).map(tuple)
        ),
        st.sampled_from(["right", "none"] if family in CLASSIFIERS else ["right", "left", "none"]),
        st.lists(kinds, min_size=1, max_size=4).map(tuple),
        budget=st.integers(1, 120),
        shared=st.just(0) | st.integers(16, 20),
        room=st.sampled_from([0, 3000, EVERYWHERE]),
        together=st.integers(1, 4),
        some=st.integers(0, 5),
        kept=st.booleans(),
        at_once=st.sampled_from([20000, EVERYWHERE]),
        known_head=st.booleans(),
        half=st.just(True),
        seed=st.integers(0, 1 << 16),
    )


def on_an_edge(item, hidden):
    """Whether a value lies where rounding decides what becomes of it: at a bound, or half way between two."""
    if isinstance(item, LinearErasure):
        return False
    values = hidden[..., item.neurons, None].double()
    edges = torch.cat([item.lower, item.upper, (item.lower + item.upper) / 2], dim=1).double()
    return bool(((values - edges).abs() <= MARGIN * (1 + values.abs())).any())


def whole_pass(model, row, item=None):
    """Logits [T, V] of a row alone ([1, C] of a classifier) under an edit, changed, looked at; None where a value is on an edge."""
    if item is None:
        return reference.logits_of(model, row), 0, 0
    seen = []
    where = model, model.config.model_type, item.site.layer, item.site.component
    with reference.hooked(*where, lambda hidden: seen.append(hidden.clone()) or hidden), edit(model, item) as (dose,):
        logits = reference.logits_of(model, row)
    assert len(seen) == 1
    if on_an_edge(item, seen[0]):
        return None
    return logits, int(dose.changed), int(dose.looked_at)


@cache
def in_double(model):
    """The same model in float64."""
    return deepcopy(model).double()


def rounding(model, row, item, of):
    """By how much a number or a tensor of a whole pass is off float64, at most."""
    exact, own = (whole_pass(one, row, item) for one in (in_double(model), model))
    if exact is None:
        return 0.0
    return float(abs(of(exact[0]).double() - of(own[0]).double()).max())


def deciding_by_short_cuts(model, case, encoded, edits, tokens):
    """(row, index of the edit) -> deciding logits, changed, looked at."""
    batches = case.batches(encoded)
    shared = SharedPrompt.of_rows(model, encoded, edits, case.room) if case.padding != "left" else None
    kept, found = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "edits_together", lambda *_: case.together)
        patch.setattr(head, "_TOGETHER_BYTES", case.at_once)
        for batch in batches if case.kept else []:
            with record_blocks(model, [blocks_before(item.site) for item in edits], off_device) as outputs:
                vectors = deciding_hidden(model, batch)
            kept.append(KeptBatch(batch.rows, dict(outputs), off_device(vectors)))
        for batch, index, logits, dose in all_deciding(model, edits, batches, tokens=tokens, shared=shared, kept=kept):
            assert (len(logits), logits.dtype) == (len(batch), torch.float32)
            doses = (dose.changed.tolist(), dose.looked_at.tolist()) if index else ([0] * len(batch),) * 2
            for row, *given in zip(batch.rows, logits, *doses, strict=True):
                assert (int(row), index) not in found
                found[int(row), index] = tuple(given)
    return found


def losses_by_short_cuts(model, case, encoded, edits):
    """(row, index of the edit) -> sum of the losses."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_LOGIT_BYTES", {"cpu": case.at_once})
        patch.setattr(text, "_EDITED_BYTES", case.room)
        if not case.known_head:
            patch.setattr(Unembedding, "of", lambda _: None)
        for batch in case.batches(encoded):
            for index, losses in text_losses(model, edits, batch):
                for row, loss in zip(batch.rows, losses.tolist(), strict=True):
                    assert (int(row), index) not in found
                    found[int(row), index] = loss
    return found


@torch.inference_mode()
def check(model, case, tolerance=TOLERANCE):
    """Logits, the answers that follow from them, and doses; of a language model also the losses of the rows as text."""
    family, rng = model.config.model_type, np.random.default_rng(case.seed)
    encoded, edits = case.rows(family, rng), case.edits(model.config, rng)
    pairs = [(row, index) for row in range(len(encoded)) for index in range(len(edits) + 1)]
    wholes = {(row, i): whole_pass(model, encoded[row], edits[i - 1] if i else None) for row, i in pairs}
    clear = [pair for pair in pairs if wholes[pair] is not None]
    assert len(clear) >= len(pairs) / 2, "most are compared"
    tokens = None
    if case.some and has_vocabulary(model):
        tokens = rng.permutation(VOCABULARY)[: case.some].tolist()

    found = deciding_by_short_cuts(model, case, encoded, edits, tokens)
    assert sorted(found) == pairs
    for row, index in clear:
        (logits, *dose), (whole, *whole_dose) = found[row, index], wholes[row, index]

        def last(logits):
            return logits[-1] if tokens is None else logits[-1][tokens]

        expected, allowed = last(whole), tolerance
        if float((logits - expected).abs().max()) > tolerance:
            allowed += ROUNDINGS * rounding(model, encoded[row], edits[index - 1] if index else None, last)
        assert float((logits - expected).abs().max()) <= allowed, (row, index)
        assert dose == whole_dose, (row, index)
        best = expected.topk(min(2, len(expected))).values
        if len(best) == 1 or best[0] - best[1] > 2 * allowed:
            assert int(logits.argmax()) == int(expected.argmax()), (row, index)

    if has_vocabulary(model):
        losses = losses_by_short_cuts(model, case, encoded, edits)
        assert sorted(losses) == pairs
        for row, index in clear:
            ids = encoded[row]

            def total(logits, ids=ids):
                return torch.tensor(reference.nll(logits, ids) if len(ids) > 1 else 0.0)

            expected, allowed = float(total(wholes[row, index][0])), tolerance
            if losses[row, index] != pytest.approx(expected, rel=tolerance, abs=tolerance):
                allowed += ROUNDINGS * rounding(model, ids, edits[index - 1] if index else None, total)
            assert losses[row, index] == pytest.approx(expected, rel=allowed, abs=allowed), (row, index)
    assert hooks(model) == 0


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_short_cuts_equal_whole_passes(family, layers):
    @settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
    @given(cases(family))
    def drawn(case):
        check(model_of(family, layers), case)

    drawn()


RANGES = (Kind(gated=True), Kind("dampen", "last", intervals=2), Kind("transport", "pooled", "mean"), Kind("clamp"))
WHOLE = (Kind("complement_mean", intervals=0), Kind("erasure", "prompt"), Kind("erasure", "pooled"))
CASES = {
    "right": Case((5, 1, 9), kinds=RANGES, together=3, kept=True),
    "left": Case((5, 1, 9), "left", RANGES[::-1], some=4, known_head=False),
    "none": Case((7, 7), "none", WHOLE, together=2, some=3),
    "shared": Case((4, 1, 6), kinds=(*RANGES[:2], *WHOLE[1:]), budget=50, shared=16, kept=True),
    "shared, nothing held": Case((4, 1, 6), kinds=WHOLE, shared=19, room=0, known_head=False),
}
# what real checkpoints of a family may have and its other tests do not
SETTINGS = {
    "residuals one after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "residuals side by side": ("gpt_neox", {"use_parallel_residual": True, "attention_bias": False}),
    "tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads, one of keys": ("llama", {"head_dim": 8, "num_key_value_heads": 1}),
    "last layers with a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    "all layers with a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}),
    "windows and a low cap": ("gemma2", {"sliding_window": 3, "final_logit_softcapping": 2.0}),
    "no caps": ("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "scores by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "scores reordered": ("gpt2", {"reorder_and_upcast_attn": True, "attn_implementation": "eager"}),
    "untied, four times as wide": ("gpt2", {"tie_word_embeddings": False, "n_inner": None}),
    "eager encoder": ("bert", {"attn_implementation": "eager"}),
    "eager decoder": ("qwen2", {"attn_implementation": "eager"}),
    "classes from the mean of all tokens": ("modernbert", {"classifier_pooling": "mean"}),
    "a convolution behind the first block": ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "a convolution behind the only block": ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu", "layers": 1}),
    "one projection for tokens and positions": ("deberta-v2", {"share_att_key": True, "norm_rel_ebd": "layer_norm"}),
    "embeddings as wide as the model": ("electra", {"embedding_size": 16}),
    "norms behind the sums": ("opt", {"do_layer_norm_before": False}),
    "no projection of embeddings": ("opt", {"word_embed_proj_dim": 16}),
    "sums from behind the norms": ("bloom", {"apply_residual_connection_post_layernorm": True}),
}


def fitting(family, head=None):
    """The fixed cases of a family. Encoders pad on the right, and of what rows share only language models make use."""
    if family in ENCODERS:
        return {name: CASES[name] for name in ("right", "none")}
    return {name: CASES[name] for name in ("right", "left", "none")} if head == "classifier" else CASES


@pytest.mark.parametrize(("family", "head", "name"), [(*pair, name) for pair in HEADS for name in fitting(*pair)])
def test_every_family_with_every_head(family, head, name):
    check(model_of(family, head=head), CASES[name])


@pytest.mark.parametrize(("setting", "name"), [(s, name) for s in SETTINGS for name in fitting(SETTINGS[s][0])])
def test_unusual_settings(setting, name):
    family, overrides = SETTINGS[setting]
    check(model_of(family, **overrides), CASES[name])


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in FAMILIES for name in fitting(family)])
def test_half_precision(family, name):
    """Whole neurons, so that no rounding decides what is edited; the logits as near as the check of an audit asks for."""
    model, case = model_of(family, dtype=torch.bfloat16), replace(CASES[name], kinds=WHOLE)
    (row,) = replace(case, lengths=(9,)).rows(family, np.random.default_rng(0))
    with torch.inference_mode():
        largest = float(reference.logits_of(model, row)[-1].abs().max())
    tolerance = _ROUNDINGS * torch.finfo(torch.bfloat16).eps * largest
    check(model, case, tolerance)
