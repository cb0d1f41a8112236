"""`preset: official` equals the semantics of the paper's reference, built here once more from the definitions alone.

The part between the rules is the method in plain PyTorch and NumPy and uses nothing of NeuronLens: a row at a time, and a whole forward
pass per intervention. The other side comes through the door of any audit: a configuration, the stages, and their tables.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from neuronlens.artifact import read_table
from neuronlens.dataset import Dataset, read_dataset
from neuronlens.params import load_config
from neuronlens.stages import run_stage
from tests.conftest import sentences
from tests.models import CONCEPTS, WORDS, random_model, tokenizer

PROMPT = "{text} Topic:"
LAYERS = (1, 2)  # the middle and the last of three

# ----------------------------------------------------------------------------------------------------------------------


def plain_audit(folder: Path, blocks: str, rows: list[tuple[str, str, str]], documents: list[str]) -> dict[Any, Any]:
    """(layer, concept, range) -> what masking does. rows: (text, concept, split); documents make the model a causal one."""
    decoder, words = bool(documents), AutoTokenizer.from_pretrained(folder)
    door = AutoModelForCausalLM if decoder else AutoModelForSequenceClassification
    model, at = door.from_pretrained(folder).eval(), -1 if decoder else 0  # last real token or first token
    tokens = [words(PROMPT.replace("{text}", text) if decoder else text)["input_ids"] for text, _, _ in rows]
    concepts, start = sorted({concept for _, concept, _ in rows}), len(words("Topic:")["input_ids"])
    ids = [words(f"Topic: {c}")["input_ids"][start] if decoder else model.config.label2id[c] for c in concepts]

    def hidden_and_logits(ids, layer=0, neurons=(), lower=0.0, upper=0.0):
        """One forward pass, zero wherever a neuron lies in its range, both bounds included: [T, D] as it was, [T or 1, V]."""

        def zero(_, __, output):
            seen.append((output[0] if isinstance(output, tuple) else output).clone())
            value, edited = seen[0][..., neurons], seen[0].clone()
            edited[..., neurons] = torch.where((value >= lower) & (value <= upper), 0.0, value)
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        seen: list[torch.Tensor] = []
        hook = model.get_submodule(blocks)[layer].register_forward_hook(zero)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits
        hook.remove()
        return seen[0][0], logits[0] if decoder else logits

    def answers(members, *edit):
        """[n] right or wrong, [n] probability of the true label among all classes or the whole vocabulary."""
        logits = [hidden_and_logits(tokens[i], *edit)[1][-1] for i in members]
        own = [concepts.index(rows[i][1]) for i in members]
        right = [int(found[ids].argmax()) == place for found, place in zip(logits, own, strict=True)]
        return np.array(right), np.array([found.softmax(-1)[ids[j]] for found, j in zip(logits, own, strict=True)])

    def perplexity(*edit):
        losses = []
        for text in documents:
            document = words(text)["input_ids"]
            surprise = -hidden_and_logits(document, *edit)[1].log_softmax(-1)
            losses += surprise[range(len(document) - 1), document[1:]].tolist()
        return np.exp(np.mean(losses)) if documents else None

    fit, test = ([i for i, row in enumerate(rows) if row[2] == split] for split in ("fit", "test"))
    fit_right, base, base_perplexity, found = answers(fit)[0], answers(test), perplexity(), {}
    for layer in LAYERS:
        pooled = np.stack([hidden_and_logits(tokens[i], layer)[0][at].numpy() for i in fit]).astype(np.float64)
        for concept in concepts:
            values = pooled[fit_right & np.array([rows[i][1] == concept for i in fit])]
            neurons = np.argsort(-np.abs(values).mean(0), kind="stable")[: int(0.3 * values.shape[1])]
            mean, spread = values.mean(0)[neurons], 2 * values.std(0, ddof=0)[neurons]
            target = np.array([rows[i][1] == concept for i in test])
            whole = np.full(len(neurons), np.inf)
            for kind, bounds in (("gaussian", (mean - spread, mean + spread)), ("full", (-whole, whole))):
                edit = (layer, neurons, *(torch.tensor(bound, dtype=torch.float32) for bound in bounds))
                row = {"neurons": neurons.tolist(), "bounds": bounds, "rows": len(values)}
                row |= {"perplexity": perplexity(*edit), "base_perplexity": base_perplexity}
                for prefix, (right, confidence) in (("", answers(test, *edit)), ("base_", base)):
                    for group, members in (("target", target), ("complement", ~target)):
                        row[f"{prefix}{group}_accuracy"] = right[members].mean()
                        row[f"{prefix}{group}_confidence"] = confidence[members].mean()
                found[layer, concept, kind] = row
    return found


# ----------------------------------------------------------------------------------------------------------------------

BLOCKS = {
    "bert": "bert.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "gpt2": "transformer.h",
    "llama": "model.layers",
}
PER_SPLIT = {"fit": 12, "validation": 1, "test": 12}


def topics() -> list[tuple[str, str, str]]:
    """Texts of four to eight words, half of them of their concept; every sixth row is about another concept than its label says."""
    generator, rows = random.Random(0), []
    for place, concept in enumerate(CONCEPTS):
        for split, count in PER_SPLIT.items():
            for row in range(count):
                about = (place + (row % 6 == 5)) % len(CONCEPTS)
                words = generator.choices(WORDS[7 * about : 7 * about + 7], k=4) + generator.choices(WORDS[28:36], k=4)
                generator.shuffle(words)
                rows.append((" ".join(words[: generator.randint(4, 8)]), concept, split))
    return rows


def trained(folder: Path, family: str, rows: list[tuple[str, str, str]], *, decoder: bool) -> Path:
    """A tiny checkpoint that has learned, for a few steps, the fit rows whose label is true: right on most rows, not on all."""
    rows = [row for at, row in enumerate(row for row in rows if row[2] == "fit") if at % 6 != 5]
    model, words = random_model(family, initializer_range=0.2), tokenizer(family)
    words.padding_side = "left"
    texts = [PROMPT.replace("{text}", text) if decoder else text for text, _, _ in rows]
    batch = words(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    start = len(words("Topic:")["input_ids"])
    ids = [words(f"Topic: {name}")["input_ids"][start] if decoder else at for at, name in enumerate(CONCEPTS)]
    truth = torch.tensor([ids[CONCEPTS.index(concept)] for _, concept, _ in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        logits = model(**batch).logits
        torch.nn.functional.cross_entropy(logits[:, -1] if decoder else logits, truth).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def official(folder: Path, checkpoint: Path, rows: list[tuple[str, str, str]], documents: list[str]) -> Path:
    """The audit's folder after the stages that compute."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(("text", "label", "split"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "topics.parquet")
    settings = ["preset=official", f"checkpoint.path={checkpoint}", f"dataset.path={folder / 'topics.parquet'}"]
    settings += ["extract.sites=[resid_post.middle, resid_post.last]", "evaluate.bootstrap=100"]
    if documents:
        (folder / "ordinary.txt").write_text("\n".join(documents))
        settings += [f"evaluate.auxiliary={folder / 'ordinary.txt'}", f"dataset.prompt='{PROMPT}'"]
    for stage in ("prepare", "extract", "fit", "evaluate"):
        run_stage(stage, load_config(None, settings), folder / "audit")
    return folder / "audit"


@pytest.mark.parametrize("family", BLOCKS)
def test_the_official_preset_is_the_method_in_plain_words(family: str, tmp_path: Path) -> None:
    rows, decoder = topics(), family in ("gpt2", "llama")
    documents = sentences(6, seed=5, words=range(2, 9)) if decoder else []
    checkpoint = trained(tmp_path / family, family, rows, decoder=decoder)
    audit = official(tmp_path, checkpoint, rows, documents)
    kept = set(_texts(read_dataset(audit / "prepare")))
    assert kept == set(rows), "a text that stands twice would leave the two sides with other rows"

    expected = plain_audit(checkpoint, BLOCKS[family], rows, documents)
    results = read_table(audit / "evaluate/results.parquet").to_pylist()
    ranges = read_table(audit / "fit/ranges.parquet").to_pylist()
    assert len(results) == len(expected) == len(LAYERS) * len(CONCEPTS) * 2
    for row in results:
        layer = int(row["site"].removeprefix("resid_post."))
        own = [part for part in ranges if all(part[name] == row[name] for name in ("site", "concept", "range"))]
        plain, where = expected[layer, row["concept"], row["range"]], f"{row['site']} {row['concept']} {row['range']}"
        assert [part["neuron"] for part in own] == plain["neurons"], where
        bounds = [[part[end] for part in own] for end in ("lower", "upper")]
        np.testing.assert_allclose(np.array(bounds)[..., 0], plain["bounds"], rtol=1e-6, atol=1e-6, err_msg=where)
        for name, value in plain.items():
            if name.endswith("_accuracy"):
                assert row[name] == value, f"{where}: {name}"
            elif name.endswith(("_confidence", "perplexity")):
                assert row[name] == (value if value is None else pytest.approx(value, rel=1e-5, abs=0)), (
                    f"{where}: {name}"
                )
    _assert_that_there_was_something_to_compare(results, expected)


def _texts(dataset: Dataset) -> list[tuple[str, str, str]]:
    return list(zip(dataset.text, dataset.concept, dataset.split, strict=True))


def _assert_that_there_was_something_to_compare(results: list[dict[str, Any]], expected: dict[Any, Any]) -> None:
    """Agreement shows nothing where no row is wrong, no answer changes, or every activation is in range."""
    for row in results:
        rows = expected[int(row["site"][-1]), row["concept"], row["range"]]["rows"]
        assert 3 <= rows < PER_SPLIT["fit"], "each concept has fit rows that are right, and some that are not"
    for kind in ("gaussian", "full"):
        own = [row for row in results if row["range"] == kind]
        assert sum(row["target_accuracy_drop"] != 0 for row in own) >= 2, kind
        assert sum(row["complement_accuracy_drop"] != 0 for row in own) >= 1, kind
        for group in ("target", "complement"):
            doses = [row[f"dose_{group}"] for row in own]
            assert all(0 < dose < 1 for dose in doses) if kind == "gaussian" else doses == [1.0] * len(own)
