"""Presets: what they set."""

from __future__ import annotations

import pytest

from neuronlens.config import Config
from neuronlens.params import load_config
from neuronlens.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_what_is_left_open(tmp_path, preset):
    file = tmp_path / "params.yaml"
    file.write_text(f"preset: {preset}\nseed: 3\n")
    config = load_config(file)
    assert (config.preset, config.seed) == (preset, 3)
    dumped = config.model_dump(mode="json")
    for section, values in PRESETS[preset].items():
        assert {key: dumped[section][key] for key in values} == values


def test_the_official_preset_is_the_references():
    config = load_config(None, ["preset=official"])
    assert (config.fit.saliency, config.fit.rows) == (("mean_abs",), "correct")
    asked = config.interventions
    assert (asked.ranges, asked.tau, asked.top, asked.operators) == (("gaussian", "full"), (2.0,), (0.3,), ("zero",))
    assert (asked.positions, asked.controls, asked.tuned) == ("all", (), None)


def test_nothing_said_is_the_audited_preset():
    assert load_config() == load_config(None, ["preset=audited"]) == Config()
