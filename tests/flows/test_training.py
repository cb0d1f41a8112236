"""A training run goes on while its checkpoints are watched: real processes, the example's classifier, a checkpoint cut short, a SIGKILL."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from neuronlens.artifact import read_json
from neuronlens.example import Example
from tasks.lines import Decision, Line
from tasks.versioning import Workspace
from tests import forked
from tests.forked import Forked

WORDS = ("watch", "run", "--every", "1s", "--settled", "4", "--no-flow")
ROWS = {"fit": 12, "validation": 4, "test": 8}  # of each concept


def _filled(example: Example, root: Path) -> Path:
    table = pq.read_table(example.dataset).to_pylist()
    taken: Counter[tuple[str, str]] = Counter()
    with (root / "data.csv").open("w", newline="") as file:
        written = csv.DictWriter(file, ["text", "label", "split"], extrasaction="ignore")
        written.writeheader()
        for row in table:
            split = "fit" if row["split"] == "train" else row["split"]
            taken[row["label"], split] += 1
            if taken[row["label"], split] <= ROWS[split]:
                written.writerow(row)
    (root / "params.yaml").write_text(
        "dataset: {path: data.csv}\n"
        "fit: {rows: all, saliency: mean_abs}\n"
        "interventions: {tau: 2.0, top: [0.3], controls: []}\n"
        "evaluate: {bootstrap: 100}\n"
        "gates: {accuracy: base_accuracy drop <= 1, selectivity: selectivity >= -1}\n"
    )
    (root / "run").mkdir()
    shutil.copytree(example.folder / "classifier" / "checkpoint-400", root / "run" / "checkpoint-400")
    return root


def train(words: Sequence[str]) -> int:
    """Go on from a checkpoint with the Trainer, two steps each to 402, 404 and 406; the weights of 404 are cut short."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    first, data, run = words
    tokenizer, model = AutoTokenizer.from_pretrained(first), AutoModelForSequenceClassification.from_pretrained(first)
    with Path(data).open() as file:
        read = [*csv.DictReader(file)]
    rows = [{**tokenizer(row["text"]), "labels": model.config.label2id[row["label"]]} for row in read]

    class CutShort(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: object) -> None:
            saved = Path(run) / f"checkpoint-{state.global_step}"
            if state.global_step == 4:
                weights = saved / "model.safetensors"
                weights.write_bytes(weights.read_bytes()[:-1000])
            saved.rename(saved.with_name(f"checkpoint-{400 + state.global_step}"))

    arguments = TrainingArguments(
        run,
        max_steps=6,
        save_steps=2,
        save_only_model=True,
        learning_rate=1e-3,
        per_device_train_batch_size=16,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3,
    )
    collator = DataCollatorWithPadding(tokenizer)
    Trainer(model, arguments, collator, rows, processing_class=tokenizer, callbacks=[CutShort()]).train()
    return 0


def _until(watching: Forked, told: list[str], enough: Callable[[], bool]) -> None:
    """Read what it tells until something is so."""
    while not enough():
        line = watching.stdout.readline()
        assert line, "it has ended"
        told.append(line)


def test_what_a_training_run_writes_is_audited_once_while_it_goes_on(
    workspace_at: Callable[[Path], Workspace], example: Example, tmp_path: Path
) -> None:
    root = _filled(example, workspace_at(tmp_path / "ours").root)
    line, told = Line.of(str(root / "run"), root), list[str]()

    def decided() -> list[Decision]:
        return line.decisions()

    watching = Forked(forked.neuronlens, WORDS, root)
    training = Forked(train, ["run/checkpoint-400", "data.csv", "run"], root)
    _until(watching, told, lambda: len(decided()) == 1)
    _until(watching, told, lambda: told[-1].startswith("extract") and "computed" in told[-1])
    watching.send_signal(signal.SIGKILL)  # amid the second audit
    told += watching.communicate()[0].splitlines(keepends=True)
    assert training.wait() == 0
    before = decided()
    watching = Forked(forked.neuronlens, WORDS, root)
    _until(watching, told, lambda: len(decided()) == 4)
    end = time.monotonic() + 2.5  # two more looks find nothing
    while time.monotonic() < end:
        time.sleep(0.1)
    watching.terminate()  # a shell has SIGINT ignored for what it runs in the background
    told += watching.communicate()[0].splitlines(keepends=True)
    assert watching.returncode == 130

    found = {decision.checkpoint: decision for decision in decided()}
    assert len(decided()) == len(found) == 4, "each was decided on once"
    assert decided()[: len(before)] == before
    outcomes = {name: decision.outcome for name, decision in sorted(found.items())}
    assert outcomes == {
        "checkpoint-400": "audited",
        "checkpoint-402": "audited",
        "checkpoint-404": "error",
        "checkpoint-406": "audited",
    }
    assert (found["checkpoint-404"].error or "").startswith("model.safetensors has ")
    first, second, last = (found[f"checkpoint-{step}"] for step in (400, 402, 406))
    assert (first.before, second.before, last.before) == (None, first.audit, second.audit)
    for decision in (second, last):
        assert {gate["gate"]: gate["verdict"] for gate in decision.gates} == {"accuracy": "PASS", "selectivity": "PASS"}
        comparison = read_json(root / "comparisons" / f"{decision.before}--{decision.audit}" / "comparison.json")
        assert not comparison["identical"]
        one, other = comparison["audits"]
        assert (one["audit"], other["audit"]) == (decision.before, decision.audit)
        assert other["checkpoint"]["fingerprint"] == decision.fingerprint
    assert {path.name for path in (root / "audits").iterdir() if path.is_dir()} == {
        decision.audit for decision in (first, second, last)
    }
    computed = Counter(words[0] for words in map(str.split, told) if words[1:2] == ["computed"])
    assert all(count <= 3 for count in computed.values()), "no stage was computed twice"
    assert computed["report"] == 3
    assert json.dumps(told).count("checkpoint-404: not audited") == 1
