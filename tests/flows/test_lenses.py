"""`neuronlens export` and `neuronlens generate`: from an audit to edited text, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flows.cli import main
from flows.texts import show_texts
from neuronlens.checkpoint import load_checkpoint
from neuronlens.interventions.continuation import Continuation, Decoding, side_by_side
from neuronlens.interventions.kinds import Intervention
from neuronlens.interventions.lens import Lens
from neuronlens.interventions.operators import Target
from neuronlens.sites import Site
from tests import autoencoders
from tests.conftest import Checkpoints
from tests.models import save_checkpoint

PROMPT = "doctor of the patient"


@pytest.fixture
def lens(tuned_audit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lens of the tuned audit at two sites, in the current folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "health.lens.safetensors"
    command = ["export", str(tuned_audit), "--concept", "health", "--method", "joint/2", "-o", str(file)]
    assert main(command) == 0
    return file


def complaint(capfd: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capfd.readouterr()
    assert main([*map(str, words)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_same_export_gives_the_same_bytes(lens: Path, tuned_audit: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = lens.with_name("again")
    capfd.readouterr()
    command = ["export", str(tuned_audit), "--concept", "health", "--method", "joint/2", "-o", str(other), "--json"]
    assert main(command) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["file"] == str(other)
    assert told["sites"] == [str(site) for site in Lens.load(lens).sites]
    assert other.read_bytes() == lens.read_bytes()


def test_text_is_what_the_library_writes(lens: Path, tuned_audit: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tuned_audit.parent / "model"
    given = ["generate", "--edit", str(lens), "--checkpoint", str(model), "--max-new-tokens", "5", PROMPT, "bank"]
    for words, how, positions in (
        ([], Decoding(5), "all"),
        (["--beams", "2", "--positions", "last"], Decoding(5, 2), "last"),
        (["--sample", "7", "--temperature", "2"], Decoding(5, 1, 7, 2.0), "all"),
    ):
        capfd.readouterr()
        assert main([*given, *words, "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        item = Lens.load(lens).at(positions).item
        expected = side_by_side(load_checkpoint(model), [item], [PROMPT, "bank"], how)
        assert [(row["prompt"], row["unedited"], row["edited"]) for row in found] == [
            (each.prompt, each.unedited, each.edited) for each in expected
        ]
        assert [tuple(row["changed"]) for row in found] == [each.changed for each in expected]
    capfd.readouterr()
    assert main(given) == 0
    assert capfd.readouterr().out.count("activations in range") == 2


def test_mistakes_are_one_line(
    lens: Path, tuned_audit: Path, checkpoints: Checkpoints, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str | Path) -> str:
        return complaint(capfd, "generate", "--edit", lens, *words)

    model = tuned_audit.parent / "model"
    other = save_checkpoint(lens.with_name("other"), "gpt2", seed=1)
    assert "no audit here knows where the checkpoint of the lens lies (model, " in said(PROMPT)
    assert "the lens is of another checkpoint (model, " in said("--checkpoint", other, PROMPT)
    assert main(["generate", "--edit", str(lens), "--checkpoint", str(other), "--any-checkpoint", PROMPT]) == 0
    wide = save_checkpoint(lens.with_name("wide"), "gpt2", n_embd=32)
    assert "where the model has 32" in said("--checkpoint", wide, "--any-checkpoint", PROMPT)
    bert = checkpoints("bert").path
    assert "is a classifier, which writes no text" in said("--checkpoint", bert, "--any-checkpoint", PROMPT)
    assert "unknown positions 'lst'. Did you mean 'last'?" in said("--checkpoint", model, "--positions", "lst", PROMPT)
    assert "Add --sample SEED" in said("--checkpoint", model, "--temperature", "2", PROMPT)
    assert "must be above 0" in said("--checkpoint", model, "--sample", "1", "--temperature", "0", PROMPT)
    assert "an empty prompt" in said("--checkpoint", model, "")
    lens.write_bytes(b"nothing")
    assert "is no safetensors file" in said("--checkpoint", model, PROMPT)
    assert "no finished audit" in complaint(capfd, "export", lens.parent, "--concept", "health", "-o", "x")


def test_a_lens_of_latents_is_applied_to_a_checkpoint_that_is_opened_with_its_autoencoder(
    tuned_audit: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, sae, file = tuned_audit.parent / "model", tmp_path / "sae", tmp_path / "latents.lens.safetensors"
    width = load_checkpoint(model).config.hidden_size
    autoencoders.write(sae, "standard", width=width, metadata={"hook_name": "blocks.1.hook_resid_post"})
    checkpoint = load_checkpoint(model, sae=str(sae))
    count = autoencoders.LATENTS
    lower, upper = torch.full((count, 1), 1e-4), torch.full((count, 1), 50.0)
    zeros = (torch.zeros(count) for _ in range(5))
    item = Intervention(
        Site.parse("sae_resid_post.1"), torch.arange(count), lower, upper, Target(lower[:, 0], upper[:, 0], *zeros)
    )
    Lens.of(item, checkpoint, concept="health").save(file)
    words = ["generate", "--edit", str(file), "--checkpoint", str(model), "--max-new-tokens", "4", PROMPT]
    assert "Name its folder: --set checkpoint.sae=FOLDER" in complaint(capfd, *words)
    assert "Only keys of checkpoint" in complaint(capfd, *words, "--set", "interventions.tau=2")
    assert "unknown key 'checkpoint.sea'. Did you mean 'sae'?" in complaint(capfd, *words, "--set", "checkpoint.sea=x")
    assert main([*words, "--set", f"checkpoint.sae={sae}", "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)
    (expected,) = side_by_side(checkpoint, [item], [PROMPT], Decoding(4))
    assert (found["edited"], tuple(found["changed"])) == (expected.edited, expected.changed)
    assert sum(expected.changed) > 0


def test_hostile_text_does_not_act_on_the_terminal(lens: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31mred\x07 a\u202eb [bold]b[/bold] \r gone\nnext"
    capfd.readouterr()
    show_texts([Continuation(hostile, hostile, hostile, (0,), (0,))], [Lens.load(lens)])
    out = capfd.readouterr().out
    assert not set(out) & set("\x1b\x07\u202e\r")
    assert out.count("[bold]b[/bold]") == 3
    assert len(out.splitlines()) == 4, "a line a text where nobody looks"
