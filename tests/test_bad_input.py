"""Input that cannot be audited is one line that names it; input that is merely odd has an outcome that is known."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from flows.cli import main
from neuronlens.activations.extract import collect_activations
from neuronlens.artifact import read_table
from neuronlens.checkpoint import load_checkpoint
from neuronlens.dataset import load_dataset
from neuronlens.errors import NonFiniteActivationError
from neuronlens.evaluation.sweep import Method, evaluate_methods
from neuronlens.interventions.kinds import Intervention
from neuronlens.params import load_config
from neuronlens.ranges.selection import fit_ranges
from neuronlens.ranges.statistics import fit_statistics
from neuronlens.ranges.tables import read_ranges
from neuronlens.stages import STAGES, run_stage
from tests.conftest import labelled, sentences
from tests.models import CONCEPTS, INNER, WORDS, random_model, tokenizer

LAST = 2  # the last of three blocks
Change = Callable[[PreTrainedModel], None]


def save(folder: Path, change: Change, family: str = "bert", **overrides: Any) -> Path:
    """A random checkpoint with changed weights."""
    model = random_model(family, **overrides)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def write_rows(file: Path, rows: Iterable[tuple[str, ...]], *columns: str) -> Path:
    """A CSV of text, label and, where given, other columns."""
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label", *columns), *rows])
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a checkpoint and labelled text."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "bert", lambda _: None)
    rows = labelled()
    write_rows(tmp_path / "data.csv", zip(rows.text, rows.concept, rows.split, strict=True), "split")
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], arguments: str, code: int = 2) -> str:
    """The one line on stderr of an audit that exits with a code."""
    capfd.readouterr()
    assert main(["audit", "--no-flow", "--out", "audit", *shlex.split(arguments)]) == code
    err = capfd.readouterr().err
    assert err.startswith("neuronlens: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("interventions.tau=0", "interventions.tau: input should be greater than 0 (got 0)"),
        ("interventions.tau=[2, -0.5]", "interventions.tau: input should be greater than 0 (got -0.5)"),
        ("interventions.tau=.nan", "interventions.tau: input should be a finite number (got nan)"),
        ("interventions.tau=[]", "interventions.tau: needs at least one value"),
        ("interventions.top=0", "interventions.top: input should be greater than 0 (got 0)"),
        ("interventions.top=-0.3", "interventions.top: input should be greater than 0 (got -0.3)"),
        ("interventions.top=[0.3, 1.01]", "interventions.top: input should be less than or equal to 1 (got 1.01)"),
        ("interventions.operators=stear", "unknown operator 'stear'. Did you mean 'steer'?"),
        ("interventions.operators=steer", "steer needs a number, such as steer:0.5"),
        ("interventions.operators='scale:'", "scale needs a number, such as scale:0.5"),
        ("interventions.operators=steer:nan", "steer needs a number, such as steer:0.5"),
        ("interventions.operators=[zero, dampn]", "unknown operator 'dampn'. Did you mean 'dampen'?"),
        ("interventions.operators=''", "unknown operator ''. Known: zero, mean, complement_mean"),
        ("interventions.operators=dampen:much", "dampen needs a number, such as dampen:0.5"),
        ("interventions.operators=dampen:-1", "dampen needs a number, such as dampen:0.5"),
        ("interventions.operators=dampen:inf", "dampen needs a number, such as dampen:0.5"),
        (f"interventions.operators=dampen:{'9' * 400}", "dampen needs a number, such as dampen:0.5"),
        ("interventions.operators=dampen:0.1:0.2", "dampen needs a number, such as dampen:0.5"),
        ("interventions.operators='dampen:'", "dampen needs a number, such as dampen:0.5"),
        ("interventions.operators='zero:'", "zero takes no number"),
        ("interventions.operators=complement_mean:0.5", "complement_mean takes no number"),
        (
            "fit.saliency=auc",
            "fit.saliency: input should be 'mean_abs', 'mean', 'probeless', 'd_prime', 'auroc', 'probe'",
        ),
        ("interventions.threshold=0", "interventions.threshold: input should be greater than 0"),
        ("interventions.tuned.top=1.5", "interventions.tuned.top: input should be less than or equal to 1"),
        (
            "fit.saliency=[mean_abs, d-prime]",
            "fit.saliency: input should be 'mean_abs', 'mean', 'probeless', 'd_prime'",
        ),
    ],
)
def test_a_parameter_outside_its_meaning(
    here: Path, capfd: pytest.CaptureFixture[str], setting: str, told: str
) -> None:
    err = refused(capfd, f"--checkpoint bert --dataset data.csv --set {shlex.quote(setting)}")
    assert err.startswith(f"neuronlens: --set {setting}: ")
    assert told in err
    assert not (here / "audit").exists()


@pytest.mark.parametrize(
    ("site", "told"),
    [
        ("resid_pots.1", "unknown component 'resid_pots' in site 'resid_pots.1'. Did you mean 'resid_post'?"),
        ("heads.1", "unknown component 'heads' in site 'heads.1'. Known: attn_out, mlp_post, mlp_out, resid_post."),
        ("resid_pots.all", "unknown component 'resid_pots'"),
        ("resid_post", "site 'resid_post' names no layer. Write it as component.layer, such as resid_post.3."),
        ("resid_post.first", "site 'resid_post.first' names no layer"),
        ("mlp_post.-1", "site 'mlp_post.-1' names no layer"),
        ("resid_post.\N{SUPERSCRIPT TWO}", "names no layer"),
        ("mlp_post.3", "site 'mlp_post.3': layer 3 does not exist. The model has 3 layers: 0 to 2"),
    ],
)
def test_a_site_that_does_not_exist(here: Path, capfd: pytest.CaptureFixture[str], site: str, told: str) -> None:
    sites = shlex.quote(f"extract.sites=[resid_post.0, {site}]")
    err = refused(capfd, f"--checkpoint bert --dataset data.csv --set {sites}")
    assert err.startswith("neuronlens: extract.sites: ")
    assert told in err
    assert not (here / "audit").exists()


def test_dampen_without_a_factor_is_the_references(here: Path) -> None:
    checkpoint, dataset = load_checkpoint(here / "bert"), load_dataset(here / "data.csv")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    ranges = fit_ranges(statistics, "sports", top=0.5, tau=2.5)
    bare, named, other = (f"dampen{factor}" for factor in ("", ":0.125", ":0.5"))
    table, _ = evaluate_methods(checkpoint, dataset, [Method(ranges, operator) for operator in (bare, named, other)])
    confidence = table["target_confidence"].to_pylist()
    assert confidence[0] == confidence[1] != confidence[2]


@pytest.mark.parametrize("split", ["given", "made"])
def test_a_concept_with_one_row(here: Path, capfd: pytest.CaptureFixture[str], split: str) -> None:
    rows = labelled(CONCEPTS[:3])
    columns = [*zip(rows.text, rows.concept, rows.split, strict=True), ("the only vote", "sports", "fit")]
    if split == "given":
        write_rows(here / "data.csv", columns, "split")
    else:
        write_rows(here / "data.csv", [row[:2] for row in columns])
    err = refused(capfd, "--checkpoint bert --dataset data.csv")
    assert err.startswith("neuronlens: data.csv: concept 'sports' has ")
    assert err.endswith("Add rows or remove the concept.\n")
    assert not (here / "audit").exists()


def test_a_concept_with_one_row_that_the_model_gets_right(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = sentences(120, seed=3)
    probe = load_dataset(write_rows(here / "probe.csv", zip(texts, CONCEPTS * 30, strict=True)))
    found = collect_activations(load_checkpoint(here / "bert"), probe)
    named = {probe.text[list(probe.row).index(row)]: said for row, said in zip(found.row, found.predicted, strict=True)}
    by_concept = {name: [text for text in texts if named.get(text) == name] for name in CONCEPTS}
    one, two, *_ = sorted(CONCEPTS, key=lambda name: -len(by_concept[name]))
    assert len(by_concept[two]) >= 4, "the random model must name two concepts"
    right = [(text, one, "fit") for text in by_concept[one][:4]] + [(by_concept[two][0], two, "fit")]
    wrong = [(text, two, "fit") for text in by_concept[one][4:8]]
    tested = [(by_concept[one][8], one, "test"), (by_concept[two][1], two, "test")]
    write_rows(here / "data.csv", right + wrong + tested, "split")
    err = refused(capfd, "--checkpoint bert --dataset data.csv")
    assert f"fit.rows: concept '{two}' has 1 fit rows predicted right by the model" in err
    assert "Use fit.rows=all, or add rows." in err
    assert not (here / "audit/fit").exists()


def rows_with(word: str) -> set[int]:
    """Rows of `labelled()` whose text holds a word."""
    return {row for row, text in enumerate(labelled().text) if word in text.split()}


def test_a_nan_activation_is_named_by_site_neuron_and_row(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def break_a_word(model: PreTrainedModel) -> None:
        model.get_input_embeddings().weight[4 + WORDS.index("bank"), 3] = math.nan

    save(here / "broken", break_a_word)
    bad = rows_with("bank")
    assert 0 < len(bad) < len(labelled())
    err = refused(capfd, "--checkpoint broken --dataset data.csv --set extract.sites=resid_post.1", code=3)
    told = re.match(r"neuronlens: site resid_post\.1, neuron \d+, row (\d+): the activation is nan; try", err)
    assert told, err
    assert int(told[1]) in bad
    assert not (here / "audit/extract").exists()


def test_an_infinite_activation_is_named_by_site_neuron_and_row(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neuron 5 is a huge weight times one coordinate: too large for float32 on half of the rows."""
    dataset, neuron, dense = load_dataset(here / "data.csv"), 5, f"bert.encoder.layer.{LAST}.intermediate.dense"
    model = load_checkpoint(save(here / "relu", lambda _: None, hidden_act="relu")).model
    seen: list[torch.Tensor] = []
    with torch.no_grad(), model.get_submodule(dense).register_forward_pre_hook(lambda _, x: seen.append(x[0][0, 0])):
        for text in dataset.text:
            model(**tokenizer("bert")(text, return_tensors="pt", return_token_type_ids=False))
    values = torch.stack(seen)
    coordinate = int((values.mean(dim=0).abs() / values.std(dim=0)).argmax())
    sign = values[:, coordinate].mean().sign()
    sizes = sign * values[:, coordinate]
    assert (sizes > 0).all()
    middle = sizes.sort().values[len(sizes) // 2 - 1 : len(sizes) // 2 + 1].mean()
    bad = {row for row, size in zip(dataset.row, sizes, strict=True) if size > middle}
    assert len(bad) == len(dataset) // 2

    def overflow(model: PreTrainedModel) -> None:
        layer = model.get_submodule(dense)
        layer.weight[neuron], layer.bias[neuron] = 0.0, 0.0
        layer.weight[neuron, coordinate] = sign * torch.finfo(torch.float32).max / middle

    save(here / "broken", overflow, hidden_act="relu")
    err = refused(capfd, "--checkpoint broken --dataset data.csv --set extract.sites=mlp_post.last", code=3)
    told = re.match(rf"neuronlens: site mlp_post\.{LAST}, neuron {neuron}, row (\d+): the activation is inf; try", err)
    assert told, err
    assert int(told[1]) in bad


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_answers_that_are_no_numbers_are_refused_although_the_site_is_finite(
    here: Path, capfd: pytest.CaptureFixture[str], value: float
) -> None:
    def break_the_head(model: PreTrainedModel) -> None:
        model.classifier.bias[1] = value

    save(here / "broken", break_the_head)
    err = refused(capfd, "--checkpoint broken --dataset data.csv --set extract.sites=resid_post.0", code=3)
    assert re.match(r"neuronlens: row \d+: a logit of the unedited model is not finite; try checkpoint\.dtype", err)
    assert not (here / "audit/extract").exists()


def test_answers_that_an_edit_breaks_are_refused_by_site(here: Path) -> None:
    checkpoint, dataset = load_checkpoint(here / "bert"), load_dataset(here / "data.csv")
    statistics = fit_statistics(collect_activations(checkpoint, dataset), "resid_post.2", rows="all")
    ranges = fit_ranges(statistics, "sports", top=0.5, kind="full")
    ranges.complement_mean[:] = math.inf
    with pytest.raises(
        NonFiniteActivationError, match=r"^row \d+: a logit under the edit of site resid_post\.2 is not"
    ):
        evaluate_methods(checkpoint, dataset, [Method(ranges, "complement_mean")])


CONSTANT, VALUE = 7, 40.3  # the neuron and what it always is, larger than any other


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of a model with a constant neuron, which alone is edited; beside it the same model with that neuron at 0."""
    folder = tmp_path_factory.mktemp("constant")

    def hold(value: float) -> Change:
        def change(model: PreTrainedModel) -> None:
            dense = model.get_submodule(f"bert.encoder.layer.{LAST}.intermediate.dense")
            dense.weight[CONSTANT], dense.bias[CONSTANT] = 0.0, value

        return change

    for name, value in (("constant", VALUE), ("silent", 0.0)):
        save(folder / name, hold(value), hidden_act="relu")
    rows = labelled()
    write_rows(folder / "data.csv", zip(rows.text, rows.concept, rows.split, strict=True), "split")
    settings = [f"checkpoint.path={folder / 'constant'}", f"dataset.path={folder / 'data.csv'}", "fit.rows=all"]
    settings += ["extract.sites=mlp_post.last", f"interventions.top={1.01 / INNER}", "interventions.controls=[]"]
    for stage in STAGES:
        run_stage(stage, load_config(None, [*settings, "preset=official", "evaluate.bootstrap=100"]), folder / "audit")
    return folder


def test_every_statistic_of_a_constant_neuron_is_finite(constant: Path) -> None:
    table = read_table(constant / "audit/fit/statistics.parquet").to_pylist()
    own = [row for row in table if row["neuron"] == CONSTANT]
    assert len(own) == len(CONCEPTS)
    value = float(np.float32(VALUE))
    for row in own:
        for name in ("mean", "min", "max", "complement_mean", "mean_abs", "histogram_low"):
            assert row[name] == value, name
        assert value < row["histogram_high"] == pytest.approx(value, rel=1e-4)
        assert row["quantiles"] == [value] * len(row["quantiles"])
        for name in ("std", "complement_std", "skewness", "kurtosis", "d_prime"):
            assert row[name] == 0, name
        assert row["jarque_bera_p"] == 1
        assert row["histogram"][0] == sum(row["histogram"]) == row["n"]
        assert all(np.isfinite(number) for number in row.values() if isinstance(number, float))
    text = (constant / "audit/report/audit.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_gaussian_range_without_width_holds_exactly_the_constant(constant: Path) -> None:
    ranges = read_table(constant / "audit/fit/ranges.parquet").to_pylist()
    assert {row["neuron"] for row in ranges} == {CONSTANT}
    for row in ranges:
        bounds = (row["lower"], row["upper"])
        value = float(np.float32(VALUE))
        assert bounds == (([value], [value]) if row["range"] == "gaussian" else ([-math.inf], [math.inf]))
        assert (row["dose_target"], row["dose_complement"]) == (1, 1)
        assert row["complement_mean"] == value
    near = np.nextafter(np.float32(VALUE), np.float32([-np.inf, VALUE, np.inf]))
    hidden = torch.zeros(1, 3, INNER)
    hidden[0, :, CONSTANT] = torch.from_numpy(near)
    for found in read_ranges(constant / "audit/fit/ranges.parquet"):
        _, inside = Intervention.of(found).apply(hidden, torch.ones(1, 3, dtype=torch.bool))
        assert inside[0, :, 0].tolist() == ([False, True, False] if found.kind == "gaussian" else [True] * 3)


def test_masking_a_constant_neuron_whole_or_by_range_switches_it_off(constant: Path) -> None:
    """As the model does in which the neuron is 0. The reference's infinity times 0 is NaN and masks nothing."""
    results = read_table(constant / "audit/evaluate/results.parquet").to_pylist()
    checkpoint, dataset = load_checkpoint(constant / "silent"), load_dataset(constant / "data.csv")
    found = collect_activations(checkpoint, dataset)
    tested = np.array(found.split) == "test"
    assert {row["range"] for row in results} == {"gaussian", "full"}
    for row in results:
        own = tested & (np.array(found.concept) == row["concept"])
        assert row["target_accuracy"] == found.correct[own].mean()
        assert row["target_confidence"] == pytest.approx(float(found.confidence[own].mean()), rel=1e-5)
        assert row["target_confidence"] != pytest.approx(row["base_target_confidence"], rel=1e-2)
        assert (row["dose_target"], row["dose_complement"]) == (1, 1)
