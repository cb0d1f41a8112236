"""Sites: names that resolve to the right module of every family, or to an error that says what exists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronlens.errors import SiteError
from neuronlens.families import FAMILIES
from neuronlens.sites import (
    COMPONENTS,
    Site,
    blocks_of,
    expand_sites,
    layer_count,
    resolve,
    site_width,
    top_count,
)
from tests import models, reference


def test_every_supported_family_is_tested():
    assert set(FAMILIES) == {*models.ENCODERS, *models.DECODERS}
    assert {name for name, family in FAMILIES.items() if family.decoder} == set(models.DECODERS)


@given(st.integers(0, 999), st.sampled_from(COMPONENTS))
def test_a_name_comes_back(layer, component):
    site = Site(layer, component)
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resid_pots.3", "unknown component 'resid_pots' in site 'resid_pots.3'. Did you mean 'resid_post'?"),
        ("resid_post", "site 'resid_post' names no layer. Write it as component.layer, such as resid_post.3."),
        ("resid_post.-1", "names no layer"),
        ("resid_post.last.2", "names no layer"),
        ("", "unknown component ''"),
        (".3", "unknown component ''"),
    ],
)
def test_a_name_that_is_none(text, message):
    with pytest.raises(SiteError) as caught:
        Site.parse(text)
    assert message in str(caught.value)


def test_words_for_layers():
    def names(*specs):
        return [str(site) for site in expand_sites(specs, 5)]

    assert names("resid_post.last") == ["resid_post.4"]
    assert names("mlp_post.middle") == ["mlp_post.2"]
    assert names("resid_post.all") == [f"resid_post.{layer}" for layer in range(5)]
    assert names("resid_post.1", "mlp_post.1", "resid_post.0") == ["resid_post.0", "mlp_post.1", "resid_post.1"]
    assert names("resid_post.4", "resid_post.last", "resid_post.all")[-1] == "resid_post.4"
    assert len(names("resid_post.4", "resid_post.last", "resid_post.all")) == 5
    assert [str(site) for site in expand_sites(["resid_post.middle", "resid_post.last"], 1)] == ["resid_post.0"]


@given(st.permutations([f"{component}.{layer}" for component in COMPONENTS for layer in range(3)]))
def test_sites_come_in_the_order_in_which_a_forward_call_meets_them(names):
    expected = [f"{part}.{layer}" for layer in range(3) for part in ("attn_out", "mlp_post", "mlp_out", "resid_post")]
    assert [str(site) for site in expand_sites(names, 3)] == expected
    assert str(max(map(Site.parse, names))) == "resid_post.2"


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            ["resid_post.5"],
            r"extract\.sites: site 'resid_post\.5': layer 5 does not exist.*5 layers: 0 to 4, last, middle or all",
        ),
        (["resid_post.lst"], "names no layer"),
        (["resid.last"], "unknown component 'resid'"),
        ([], "no site is named"),
    ],
)
def test_sites_that_do_not_exist(specs, message):
    with pytest.raises(SiteError, match=message):
        expand_sites(specs, 5)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_site_resolves_to_its_module(checkpoints, family):
    checkpoint = checkpoints(family)
    model = checkpoint.model
    assert layer_count(model.config) == models.LAYERS
    path, blocks = blocks_of(model)
    assert path == reference.BLOCKS[family]
    assert len(blocks) == models.LAYERS
    for layer in range(models.LAYERS):
        block, down = (resolve(model, Site(layer, component)) for component in ("resid_post", "mlp_post"))
        assert block.module is model.get_submodule(f"{path}.{layer}") is model.get_submodule(block.path)
        assert down.module is block.module.get_submodule(reference.DOWN[family]) is model.get_submodule(down.path)
        assert (block.reads_input, down.reads_input) == (False, True)
        assert (block.width, down.width) == (models.HIDDEN, models.INNER)
    with pytest.raises(SiteError, match=r"layer 3 does not exist.*layers 0 to 2"):
        resolve(model, Site(3, "resid_post"))


def test_a_bare_gpt2_has_an_mlp_of_four_times_its_width(checkpoints):
    config = checkpoints("gpt2", n_inner=None).config
    assert config.n_inner is None
    assert site_width(config, Site(0, "mlp_post")) == 4 * models.HIDDEN
    module = resolve(checkpoints("gpt2", n_inner=None).model, Site(0, "mlp_post"))
    assert module.width == module.module.weight.shape[0]


@given(st.integers(1, 5000), st.floats(0.001, 1))
def test_the_count_is_the_floor_or_an_error_with_the_least_share(width, share):
    count = int(share * width)
    if count:
        assert top_count(width, share) == count
        return
    with pytest.raises(SiteError, match=r"less than one\. Use at least") as caught:
        top_count(width, share)
    least = float(str(caught.value).rsplit("at least", 1)[1].rstrip(". "))
    assert top_count(width, least) >= 1, "the cure must cure"
