"""Files that call themselves lenses: whatever is in them, they are read or refused in a sentence."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from neuronlens.errors import LensError, NeuronLensError
from neuronlens.interventions.kinds import Joint, LinearErasure
from neuronlens.interventions.lens import Lens
from neuronlens.interventions.operators import LOOKED_AT, OPERATORS
from neuronlens.sites import Site
from tests.interventions.edits import INF, between, of_neurons, target_of
from tests.models import HIDDEN, random_model

KEY = "neuronlens.lens"
NAN = float("nan")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
OFTEN = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a lens with ranges, a gate and an erasure."""
    config = random_model("gpt2").config
    gate = {"evidence": torch.zeros(2, 1, HIDDEN // 2), "threshold": torch.zeros(1)}
    steered = between(config, Site(1, "resid_post"), -1.0, 0.9, operator="steer:-1", **gate)
    erased = LinearErasure(Site(2, "resid_post"), *torch.ones(3, HIDDEN))
    item = Joint((steered, erased))
    file = tmp_path_factory.mktemp("lens") / "whole"
    Lens(item.items, (HIDDEN, HIDDEN), "a", "tuned", ({"top": 0.5}, {}), "m", "0" * 64, "gpt2").save(file)
    return file.read_bytes()


def parts(content):
    """Tensors and header of a file."""
    length = struct.unpack("<Q", content[:8])[0]
    return load(content), json.loads(json.loads(content[8 : 8 + length])["__metadata__"][KEY])


def read(folder: Path, content: bytes) -> Lens:
    file = folder / "lens"
    file.write_bytes(content)
    return Lens.load(file)


def refused(folder: Path, tensors, header, match: str) -> None:
    with pytest.raises(LensError, match=match) as caught:
        read(folder, save(tensors, {KEY: json.dumps(header)}))
    assert str(caught.value).isprintable()


def test_the_whole_file_is_read(whole, tmp_path):
    assert read(tmp_path, whole).sites == (Site(1, "resid_post"), Site(2, "resid_post"))


@OFTEN
@given(
    place=st.integers(0, 1 << 14), length=st.integers(0, 64), new=st.binary(max_size=64), cut=st.integers(0, 1 << 14)
)
def test_damaged_bytes_are_read_or_refused(whole, tmp_path, place, length, new, cut):
    place %= len(whole)
    content = whole[:place] + new + whole[place + length :]
    for damaged in (content, whole[: cut % len(whole)], whole + new):
        try:
            read(tmp_path, damaged)
        except NeuronLensError as error:
            assert str(error).isprintable()


@OFTEN
@given(data=st.data(), new=JSON)
def test_a_header_that_says_something_else_is_read_or_refused(whole, tmp_path, data, new):
    tensors, header = parts(whole)
    where = header
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if not isinstance(where[key], dict | list) or not where[key] or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = new
    try:
        read(tmp_path, save(tensors, {KEY: json.dumps(header)}))
    except NeuronLensError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    "text",
    ["", "1", "[]", "{", "[" * 100_000, '{"format":' + "1" * 10_000 + "}", '{"format":1}', '{"format":NaN}', "\x00"],
    ids=lambda text: text[:12],
)
def test_metadata_that_are_no_header_are_refused(whole, tmp_path, text):
    with pytest.raises(LensError, match="is damaged"):
        read(tmp_path, save(parts(whole)[0], {KEY: text}))


@OFTEN
@given(data=st.data())
def test_tensors_of_any_type_and_shape_are_read_or_refused(whole, tmp_path, data):
    tensors, header = parts(whole)
    name = data.draw(st.sampled_from(sorted(tensors)))
    shape = data.draw(st.lists(st.integers(0, 9), max_size=3))
    dtype = data.draw(
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.bool])
    )
    number = data.draw(st.sampled_from([0, 1, 7, -1]))
    tensors[name] = torch.full(shape, number).to(dtype)
    try:
        read(tmp_path, save(tensors, {KEY: json.dumps(header)}))
    except NeuronLensError as error:
        assert str(error).isprintable()


OTHER = "{} at resid_post.1 is {}, not {}".format
CORRUPT = {
    "0.neurons": [
        (lambda t: t + HIDDEN, "neurons beyond the 16 of the site"),
        (lambda t: t + 2, "neurons beyond the 16 of the site"),
        (lambda t: t - 1, "neurons beyond the 16 of the site"),
        (lambda t: t * 0, "a neuron is named twice"),
        (lambda t: t.int(), OTHER("neurons", "torch.int32 [8]", "torch.int64 [8]")),
        (lambda t: t[:-1], OTHER("lower", "torch.float32 [8, 1]", "torch.float32 [7, 1]")),
        (lambda t: t[:0], "0 neurons of 16"),
        (lambda t: t[None], "0 neurons of 16"),
    ],
    "0.lower": [
        (lambda t: t + 2, "a range ends before it begins"),
        (lambda t: t * 0 + INF, "a range ends before it begins"),
        (lambda t: t * NAN, "a range ends before it begins"),
        (lambda t: t[:, :0], "no intervals"),
        (lambda t: t[:, 0], "no intervals"),
        (lambda t: t.double(), OTHER("lower", "torch.float64 [8, 1]", "torch.float32 [8, 1]")),
    ],
    "0.upper": [
        (lambda t: t - INF, "a range ends before it begins"),
        (lambda t: t.repeat(1, 2), OTHER("upper", "torch.float32 [8, 2]", "torch.float32 [8, 1]")),
    ],
    "0.mean": [(lambda t: t * NAN, "mean is not finite")],
    "0.complement_mean": [(lambda t: t + INF, "complement_mean is not finite")],
    "0.evidence": [
        (lambda t: t + NAN, "the gate is not finite"),
        (lambda t: t[:1], OTHER("evidence", "torch.float32 [1, 1, 8]", "torch.float32 [2, 1, 8]")),
    ],
    "0.threshold": [
        (lambda t: t[:0], "a gate without a threshold"),
        (lambda t: t[None], "a gate without a threshold"),
        (lambda t: t + INF, "the gate is not finite"),
    ],
    "1.probe": [
        (lambda t: t * NAN, "probe is not finite"),
        (lambda t: t[1:], "probe at resid_post.2 is torch.float32 [15], not torch.float32 [16]"),
    ],
}


@pytest.mark.parametrize(("name", "place"), [(name, i) for name, ways in CORRUPT.items() for i in range(len(ways))])
def test_tensors_that_are_no_edit_are_refused(whole, tmp_path, name, place):
    corrupt, what = CORRUPT[name][place]
    tensors, header = parts(whole)
    tensors[name] = corrupt(tensors[name]).contiguous()
    refused(tmp_path, tensors, header, rf"lens: is damaged: {re.escape(what)}\. Export it again\.$")


@pytest.mark.parametrize("neurons", [[0], [HIDDEN - 1], [*range(HIDDEN)]])
def test_one_neuron_or_all_of_a_site_make_a_lens_and_so_does_a_single_value(tmp_path, neurons):
    item = of_neurons(Site(1, "resid_post"), torch.tensor(neurons), 0.5, 0.5)
    lens = Lens((item,), (HIDDEN,), "a", "", ({},), "m", "0" * 64, "gpt2")
    lens.save(tmp_path / "a")
    assert Lens.load(tmp_path / "a").item.extent == item.extent


def test_an_interval_that_is_not_needed_is_no_range_that_ends_before_it_begins(tmp_path):
    bounds = torch.tensor([[0.0, INF], [0.0, 2.0]]), torch.tensor([[1.0, -INF], [1.0, 3.0]])
    item = of_neurons(Site(1, "resid_post"), torch.tensor([0, 3]), *bounds)
    Lens((item,), (HIDDEN,), "a", "", ({},), "m", "0" * 64, "gpt2").save(tmp_path / "a")
    assert Lens.load(tmp_path / "a").item.extent == item.extent


def test_an_erasure_has_neither_operator_nor_gate(whole, tmp_path):
    for change in ({"operator": "zero"}, {"gated": True}):
        tensors, header = parts(whole)
        header["parts"][1] |= change
        refused(
            tmp_path, tensors, header, r"damaged: an erasure has no operator and no gate\. Export|tensors are not those"
        )


def test_numbers_that_the_operator_does_not_look_at_may_be_missing(whole, tmp_path):
    tensors, header = parts(whole)
    tensors["0.pooled_mean"] *= NAN
    assert read(tmp_path, save(tensors, {KEY: json.dumps(header)})).parts


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_look_at_those_numbers_and_no_others(name):
    values, bound = torch.linspace(-0.9, 0.9, 7), torch.ones(7, 1)
    known = dict.fromkeys(("mean", "std", "complement_mean", "complement_std", "pooled_mean"), 0.5)

    def made(**other):
        return OPERATORS[name](values, target_of(-bound, bound, **known | other), 0.5)

    seen = {number for number in known if not torch.equal(made(), made(**{number: NAN}))}
    assert seen == set(LOOKED_AT.get(name, ()))


def test_what_the_header_does_not_fit_is_refused(whole, tmp_path):
    def changed(**how):
        tensors, header = parts(whole)
        return tensors, header | how

    refused(tmp_path, *changed(format=2), match=r"format 2, newer than 1, the newest this NeuronLens reads. Upgrade")
    refused(tmp_path, *changed(format=0), match="is damaged: format")
    refused(tmp_path, *changed(fingerprint="0" * 63), match="is damaged: fingerprint")
    refused(tmp_path, *changed(more=1), match="is damaged: more")
    refused(tmp_path, *changed(**{"\x1b[31m\u202e": 1}), match=r"is damaged: \\x1b\[31m\\u202e")
    refused(tmp_path, *changed(checkpoint="\x1b[31m"), match="is damaged: checkpoint")
    tensors, header = parts(whole)
    refused(tmp_path, tensors, header | {"parts": header["parts"][::-1]}, match="tensors are not those")
    refused(tmp_path, tensors | {"2.mean": torch.ones(1)}, header, match="tensors are not those")
    for key, value, match in (
        ("site", "resid_post.2", r"damaged: its sites are not in order\."),
        ("site", "resid_post." + "9" * 60, "damaged: parts.0.site"),
        ("site", "attic.1", "unknown component"),
        ("operator", "exec", "unknown operator"),
        ("operator", None, r"damaged: ranges have an operator\."),
        ("operator", "dampen:" + "9" * 99, "damaged: parts.0.operator"),
        ("positions", "everywhere", "damaged: parts.0.positions"),
        ("width", 0, "damaged: parts.0.width"),
        ("width", 4, r"damaged: 8 neurons of 4\."),
        ("kind", "pickle", "damaged: parts.0.kind"),
    ):
        tensors, header = parts(whole)
        header["parts"][0][key] = value
        refused(tmp_path, tensors, header, match=match)


def test_what_is_told_of_a_file_does_nothing_to_a_terminal(tmp_path):
    header = b'{"a":{"dtype":"\\u001b[31m\\u202e","shape":[1],"data_offsets":[0,4]}}'
    with pytest.raises(LensError, match="is no safetensors file") as caught:
        read(tmp_path, struct.pack("<Q", len(header)) + header + b"\x00" * 4)
    assert str(caught.value).isprintable()
    assert "31m" in str(caught.value)


def test_other_files_are_refused_and_never_overwritten(whole, tmp_path):
    lens = read(tmp_path, whole)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(save({"weight": torch.ones(2)}))
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for file, match in ((weights, "is no lens of NeuronLens"), (notes, "is no safetensors file")):
        before = file.read_bytes()
        with pytest.raises(LensError, match=match):
            Lens.load(file)
        with pytest.raises(LensError, match=f"is there already, and {match}") as caught:
            lens.save(file)
        assert (caught.value.where, caught.value.cure) == (str(file), "Name another file with -o.")
        assert file.read_bytes() == before
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(LensError, match="no such file"):
            Lens.load(place)
    assert {file.name for file in tmp_path.iterdir()} == {"lens", "model.safetensors", "notes.txt"}


def test_nothing_is_written_that_nobody_could_read(tmp_path):
    config = random_model("gpt2").config
    item = between(config, Site(1, "resid_post"), 1.0, 0.0)
    with pytest.raises(LensError, match="ends before it begins"):
        Lens((item,), (HIDDEN,), "a", "", ({},), "m", "0" * 64, "gpt2").save(tmp_path / "a")
    assert not list(tmp_path.iterdir())
