"""Parameters: what wins over what, and one line for every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example as such_as
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.config import Config, config_schema
from neuronlens.errors import ConfigError
from neuronlens.params import load_config, parse_override
from tests.conftest import ROOT


@pytest.fixture
def params(tmp_path):
    """Write params.yaml."""

    def write(text: str) -> Path:
        file = tmp_path / "params.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refused(path=None, overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_wins(params):
    """Preset in the file < the file < preset on the command line < a value on the command line."""
    file = params("preset: official\ninterventions: {tau: 9}\n")
    assert load_config(file).interventions.tau == (9.0,)
    assert load_config(file).interventions.top == (0.3,)
    assert load_config(file, ["preset=audited"]).interventions.tau == (2.0, 2.5)
    assert load_config(file, ["preset=audited", "interventions.tau=7"]).interventions.tau == (7.0,)
    assert load_config(file, ["interventions.tau=7", "preset=audited"]).interventions.tau == (7.0,)
    assert load_config(file, ["interventions.tau=7", "interventions.tau=8"]).interventions.tau == (8.0,)


def test_scalars_become_lists_and_repeats_vanish():
    config = load_config(
        None,
        [
            "interventions.tau=2.5",
            "interventions.top=[0.3, 0.1, 0.3]",
            "extract.sites=mlp_post.all",
            "fit.saliency=random",
        ],
    )
    assert config.interventions.tau == (2.5,)
    assert config.interventions.top == (0.3, 0.1)
    assert config.extract.sites == ("mlp_post.all",)
    assert config.fit.saliency == ("random",)
    assert load_config(None, ["fit.saliency=[random, random]"]).fit.saliency == ("random",)


def test_an_empty_section_says_nothing(params):
    assert load_config(params("fit:\ninterventions:\nevaluate:\n")) == Config()
    assert load_config(params("")) == Config()


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config().seed = 1


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("seed: 0\ninterventoins: {}\n", 2, "unknown key 'interventoins'. Did you mean 'interventions'?"),
        ("fit:\n  rows: all\n  salience: random\n", 3, "unknown key 'fit.salience'. Did you mean 'saliency'?"),
        ("interventions:\n  tau: [2, wide]\n", 2, "interventions.tau: input should be a valid number"),
        ("interventions:\n  tau: [-1]\n", 2, "interventions.tau: input should be greater than 0 (got -1)"),
        ("interventions: {top: [1.5]}\n", 1, "interventions.top: input should be less than or equal to 1"),
        ("\ninterventions:\n\n  operators: zeros\n", 4, "unknown operator 'zeros'. Did you mean 'zero'?"),
        ("interventions: {operators: 'zero:2'}\n", 1, "zero takes no number"),
        ("interventions: {operators: 'dampen:'}\n", 1, "dampen needs a number, such as dampen:0.5"),
        ("evaluate: {scoring: generated}\n", 1, "should be 'constrained', 'labels', 'free' or 'generate'"),
        ("dataset:\n  prompt: 'Topic:'\n", 2, "must contain {text} exactly once"),
        ("dataset:\n  max_tokens: 1\n", 2, "greater than or equal to 4"),
        (
            "extract: {batch_tokens: 0}\n",
            1,
            "extract.batch_tokens: must be auto or a whole number of at least 1 (got 0)",
        ),
        ("extract:\n  batch_tokens: all\n", 2, "must be auto or a whole number of at least 1 (got 'all')"),
        (
            "checkpoint:\n  dtype: int8\n",
            2,
            "checkpoint.dtype: input should be 'auto', 'float32', 'bfloat16' or 'float16'",
        ),
        ("seed: -1\n", 1, "seed: input should be greater than or equal to 0"),
        ("evaluate:\n  bootstrap: .nan\n", 2, "evaluate.bootstrap"),
        ("interventions:\n  tau: .inf\n", 2, "interventions.tau"),
        ("fit: 3\n", 1, "fit"),
        ("preset: oficial\n", 1, "unknown preset 'oficial'. Did you mean 'official'?"),
        ("a: [1\nb: 2\n", 2, "is no YAML"),
        ("a: 1\n\tb: 2\n", 2, "is no YAML"),
    ],
)
def test_a_mistake_in_the_file_names_its_line_and_the_cure(params, text, line, message):
    found = refused(params(text))
    assert f"params.yaml:{line}: " in found
    assert message in found


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("interventions.taus=2", "--set interventions.taus=2: unknown key 'interventions.taus'. Did you mean 'tau'?"),
        ("interventions.tau", "--set interventions.tau: is no assignment. Write it as section.key=value"),
        ("=3", "is no assignment"),
        ("interventions.tau=[2", "--set interventions.tau=[2: the value is no YAML. Lists look like [2.0, 2.5]."),
        ("dataset.prompt={text} Topic:", "in quotes, as in --set 'dataset.prompt=\"{text} Topic:\"'."),
        ("dataset.prompt={text}", "dataset.prompt: input should be a valid string. Text that YAML would read"),
        ("dataset.label=no", "(got False). Text that YAML would read as something else stands in quotes."),
        ("seed=many", "--set seed=many: seed: input should be a valid integer"),
        ("seed.x=1", "--set seed.x=1"),
        ("fit.rows.x=1", "fit.rows is a value, not a section"),
        ("preset=none_such", "--set preset=none_such: unknown preset 'none_such'. Known: official, audited."),
        ("preset=[official]", "preset"),
        ("extract.pooling=median", "--set extract.pooling=median: extract.pooling: input should be 'auto', 'first'"),
    ],
)
def test_a_mistake_on_the_command_line_is_quoted(override, message):
    assert message in refused(None, [override])


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(params):
    file = params("interventions:\n  tau: 2\n")
    assert refused(file, ["interventions.tau=-2"]).startswith("--set interventions.tau=-2: ")
    assert "params.yaml:2" in refused(params("interventions:\n  tau: -2\n"), ["interventions.top=0.5"])


def test_a_file_that_cannot_be_read(tmp_path):
    assert "no such file" in refused(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"dataset: {text: \xe9}")
    assert "UTF-8" in refused(tmp_path / "latin.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    assert "holds no sections" in refused(tmp_path / "list.yaml")
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize(
    "field",
    [
        "extract.sites",
        "fit.saliency",
        "interventions.ranges",
        "interventions.tau",
        "interventions.top",
        "interventions.operators",
    ],
)
def test_a_sweep_over_nothing_is_a_mistake(field):
    """It would run for minutes and find nothing, or break where the tables are put together."""
    assert field in refused(None, [f"{field}=[]"])


def test_overrides_are_yaml():
    assert parse_override("a.b=[1, 2.5, x]") == (("a", "b"), [1, 2.5, "x"])
    assert parse_override("a=null") == (("a",), None)
    assert parse_override("a='x=y'") == (("a",), "x=y")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=True) | st.text(max_size=6) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=6,
)
SECTIONS = st.sampled_from([*Config.model_fields, "gates"])
PATHS = [
    f"{name}.{key}"
    for name, field in Config.model_fields.items()
    if hasattr(field.annotation, "model_fields")
    for key in field.annotation.model_fields
]
KEYS = st.sampled_from([path.partition(".")[2] for path in PATHS])


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(SECTIONS, VALUES | st.dictionaries(KEYS | st.text(max_size=4), VALUES, max_size=3), max_size=4))
def test_any_yaml_is_a_configuration_or_one_line_of_error(tmp_path_factory, value):
    file = tmp_path_factory.getbasetemp() / "random.yaml"
    file.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    try:
        assert isinstance(load_config(file), Config)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert "random.yaml" in str(error)


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=st.sampled_from("abfit:{}[]&*-!|>'\"#%@,.0123 \n\t\x00?~=<"), max_size=30))
@such_as("interventions: &a {tau: *a}")
@such_as("preset: [official]")
@such_as("day: 2020-99-99")
@such_as("number: 0x_")
@such_as("{[1, 2]: 3}")
@such_as("? {a: 1}\n: 2")
def test_any_text_is_a_configuration_or_one_line_of_error(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "garbage.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        load_config(file)
    except ConfigError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.sampled_from("seditfl.rows=[]{}&*-!:'0129 \t"), max_size=20))
@such_as("seed=2020-99-99")
@such_as("preset={}")
def test_any_override_is_taken_or_one_line_of_error(override):
    try:
        load_config(None, [override])
    except ConfigError as error:
        assert "\n" not in str(error)


def test_every_parameter_explains_itself():
    """The schema and the documentation are made from these."""
    schema = config_schema()
    for model in (schema, *schema["$defs"].values()):
        assert [name for name, field in model["properties"].items() if not field.get("description")] == []


SCHEMA = jsonschema.Draft202012Validator(config_schema())
TRIED = [
    *(
        "word",
        "auto",
        "",
        "zero",
        "zero:",
        "zero:2",
        "dampen",
        "dampen:.5",
        "dampen:x",
        "random",
        "random_neurons",
        "full",
        "all",
    ),
    *(
        "{text} Topic:",
        "{text}{text}",
        "Topic:",
        "a\n{text}\n",
        "resid_post.last",
        "official",
        "free",
        "float32",
        "last",
        "threads",
    ),
    *(-1, 0, 1, 2, 3, 4, 99, 100, 0.5, 1.5, 3.0, 2**32 - 1, 2**32, None, {}, {"sports": " yes"}, {"sports": 1}),
    *([], [0.1, 0.3], [0.3, 0.3], [1, 2], [0, 1], ["zero"], ["zero", "dampen:2"], ["zero", 1], ["full", "gaussian"]),
    *(["random"], ["random_neurons"], [None], [[0.1]], ["mlp_post.0", "resid_post.all"]),
]


def test_the_schema_is_one_and_takes_the_projects_own_file():
    jsonschema.Draft202012Validator.check_schema(config_schema())
    assert config_schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    text = (ROOT / "params.yaml").read_text()
    spelt_out = re.sub(r"^  # ( *\w+: )", r"  \1", text, flags=re.MULTILINE)
    for written in (text, spelt_out):
        SCHEMA.validate(yaml.safe_load(written))
    assert not SCHEMA.is_valid(yaml.safe_load(text) | {"sed": 0})


@pytest.mark.parametrize("key", [*PATHS, "preset", "seed", "fit.tau", "sed"])
def test_the_schema_takes_what_load_config_takes_and_nothing_else(params, key):
    """But for numbers in quotes and truth values, which only load_config takes for numbers."""
    taken = 0
    for value in (*TRIED, *([True] if key == "remote.push" else [])):
        section, _, name = key.rpartition(".")
        written = {section: {name: value}} if section else {name: value}
        try:
            load_config(params(yaml.safe_dump(written)))
            accepted = True
        except ConfigError:
            accepted = False
        assert SCHEMA.is_valid(written) == accepted, written
        taken += accepted
    assert (taken > 0) == (key not in ("fit.tau", "sed"))
    assert taken < len(TRIED)


@pytest.mark.parametrize("section", [name for name in Config.model_fields if name not in ("preset", "seed")])
@pytest.mark.parametrize("value", [None, {}, 3, "word", [], [1]])
def test_the_schema_takes_the_sections_that_load_config_takes(params, section, value):
    assert SCHEMA.is_valid({section: value}) == (value is None or value == {})
    if SCHEMA.is_valid({section: value}):
        assert load_config(params(yaml.safe_dump({section: value}))) == Config()
    else:
        refused(params(yaml.safe_dump({section: value})))


def test_a_single_value_of_a_nested_section_changes_this_configuration_alone():
    before = Config()
    changed = load_config(None, ["interventions.tuned.top=0.5", "interventions.tuned.gate=none"])
    assert changed.interventions.tuned is not None
    assert (changed.interventions.tuned.top, changed.interventions.tuned.gate) == ((0.5,), ("none",))
    assert changed.interventions.tuned.operators == before.interventions.tuned.operators
    assert load_config() == before
    refused = pytest.raises(ConfigError, match=r"interventions\.tuned\.tops.*Did you mean 'top'")
    with refused:
        load_config(None, ["interventions.tuned.tops=0.5"])


def test_aliases_that_multiply_are_not_spelt_out(tmp_path):
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40))]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"params\.yaml:1: unknown key 'a0'"):
        load_config(tmp_path / "params.yaml")
