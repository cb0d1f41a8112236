"""Tasks of lm-evaluation-harness on an edited model: every position policy means what it means elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.cli import main
from neuronlens.errors import CheckpointError, UnreachableError, UserError
from neuronlens.evaluation.harness import compared, run_tasks
from neuronlens.interventions.continuation import Decoding, side_by_side
from neuronlens.interventions.edit import edit
from neuronlens.interventions.lens import Lens
from neuronlens.sites import Site
from tests.conftest import labelled, sentences
from tests.interventions.edits import INF, POSITIONS, between
from tests.models import CONCEPTS
from tests.reference import hooked

try:
    import lm_eval
except ModuleNotFoundError:
    lm_eval = None
# an extra of some 24 packages, which the lock leaves out: whoever has it, with the version that pyproject.toml names, runs these
needs_harness = pytest.mark.skipif(
    lm_eval is None, reason="lm-evaluation-harness is not installed: pip install 'neuronlens[harness]'"
)
SITE = Site(1, "resid_post")
FAMILIES = ("gpt2", "llama", "gemma2")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{text}}}} Topic:"
doc_to_target: {target}
metadata: {{version: 1}}
"""
CHOICES = f"doc_to_choice: {json.dumps(CONCEPTS)}\nmetric_list: [{{metric: acc}}]\n"


def requests_of(checkpoint):
    """Contexts and continuations of all lengths, some of which differ in the last token alone."""
    encoded = [checkpoint.tokenizer(text)["input_ids"] for text in sentences(8, words=range(6, 14))]
    found = [
        (None, ids[:-length], ids[-length:]) for ids, length in zip(encoded, [1, 1, 2, 3, 5, 1, 4, 2], strict=True)
    ]
    greedy: list[int] = []
    with torch.inference_mode():
        while len(greedy) < 3:
            greedy.append(int(checkpoint.model(torch.tensor([found[0][1] + greedy])).logits[0, -1].argmax()))
    return [
        *found,
        *((None, found[0][1], tokens) for tokens in (greedy[:1], greedy, [7])),
        (None, found[3][1], [*found[3][2][:-1], 9]),
    ]


def by_hand(checkpoint, family, context, continuation, positions):
    """One sequence in one call without a cache, with zeros put by hand where a policy says."""
    end = len(context)
    columns = {"all": slice(None), "prompt": slice(end), "generated": slice(end, None)}
    at = columns.get(positions, slice(end - 1, end))

    def change(hidden):
        new = hidden.clone()
        new[:, at, ::2] = 0
        return new

    ids = torch.tensor([context + continuation[:-1]])
    with torch.inference_mode(), hooked(checkpoint.model, family, 1, "resid_post", change):
        logits = checkpoint.model(ids).logits[0, end - 1 :].log_softmax(-1)
    wanted = torch.tensor(continuation)
    return float(logits.gather(1, wanted[:, None]).sum()), bool((logits.argmax(-1) == wanted).all())


def harness_model(checkpoint, batch_size=4, **how):
    from neuronlens.evaluation.harness_model import HarnessModel

    return HarnessModel(checkpoint, batch_size, **{"whole_texts": True} | how)


@needs_harness
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_requests_are_edited_where_the_policy_says(checkpoints, family, positions):
    checkpoint = checkpoints(family)
    asked = requests_of(checkpoint)
    with edit(checkpoint.model, between(checkpoint.config, SITE, -INF, INF, positions=positions)):
        found = harness_model(checkpoint)._loglikelihood_tokens(asked)
    expected = [by_hand(checkpoint, family, *pair, positions) for _, *pair in asked]
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in expected], rtol=1e-4, atol=1e-4)
    assert [two for _, two in found] == [two for _, two in expected]


@needs_harness
@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_harness_itself_can_score_is_scored_alike(checkpoints, family, edited):
    """An edit of all tokens does not care where the prompt ends; padding on the right is behind all that is read."""
    from lm_eval.models.huggingface import HFLM

    checkpoint = checkpoints(family)
    asked = requests_of(checkpoint)
    stock = HFLM(pretrained=checkpoint.model, tokenizer=checkpoint.tokenizer, batch_size=4)
    with edit(checkpoint.model, [between(checkpoint.config, SITE, -1.0, 0.9)] if edited else []):
        expected = stock._loglikelihood_tokens(asked, disable_tqdm=True)
        found = harness_model(checkpoint)._loglikelihood_tokens(asked)
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in expected], rtol=1e-4, atol=1e-4)
    assert [two for _, two in found] == [two for _, two in expected]
    assert edited or sum(two for _, two in found) >= 2, "what it would have written itself, of one token and of three"


@needs_harness
def test_over_long_contexts_lose_their_beginning_as_in_the_harness(checkpoints):
    from lm_eval.models.huggingface import HFLM

    checkpoint = checkpoints("gpt2")
    ids = (checkpoint.tokenizer(" ".join(sentences(20)))["input_ids"] * 2)[:200]
    asked = [(None, ids[:100], ids[100:103]), (None, ids[:62], ids[62:66]), (None, ids[:5], ids[5:69])]
    stock = HFLM(pretrained=checkpoint.model, tokenizer=checkpoint.tokenizer, batch_size=2)
    found = harness_model(checkpoint)._loglikelihood_tokens(asked)
    expected = stock._loglikelihood_tokens(asked, disable_tqdm=True)
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in expected], rtol=1e-4)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with tasks over a local file: a choice among topics, text that is written, and text that is scored as a whole."""
    rows = labelled(test=5)
    documents = [
        {"text": text, "label": CONCEPTS.index(concept), "answer": f" {concept}"}
        for text, concept, split in zip(rows.text, rows.concept, rows.split, strict=True)
        if split == "test"
    ]
    folder = tmp_path / "tasks"
    folder.mkdir()
    file = folder / "topics.json"
    file.write_text("\n".join(map(json.dumps, documents)))
    given = {
        "local_choice": ("multiple_choice", "label", CHOICES),
        "local_written": (
            "generate_until",
            "answer",
            "metric_list: [{metric: exact_match}]\ngeneration_kwargs: {until: ['Topic'], max_gen_toks: 4}\n",
        ),
        "local_text": ("loglikelihood_rolling", "text", "metric_list: [{metric: word_perplexity}]\n"),
    }
    for name, (kind, target, more) in given.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=file, kind=kind, target=target) + more)
    return folder


@needs_harness
@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_task_is_measured_before_and_after(checkpoints, tasks, positions):
    checkpoint = checkpoints("llama")
    item = between(checkpoint.config, SITE, -INF, INF, positions=positions)
    (found,) = run_tasks(checkpoint, [item], ["local_choice"], include_path=tasks, batch_size=3)
    assert (found.task, found.metric, found.filter, found.n) == ("local_choice", "acc", "none", 20)
    right = []
    documents = [json.loads(line) for line in (tasks / "topics.json").read_text().splitlines()]
    for policy in ("nothing", positions):
        answers = []
        for document in documents:
            context = checkpoint.tokenizer(f"{document['text']} Topic:")["input_ids"]
            scores = []
            for name in CONCEPTS:
                whole = checkpoint.tokenizer(f"{document['text']} Topic: {name}")["input_ids"]
                own = whole[len(context) :]
                if policy == "nothing":
                    with torch.inference_mode():
                        logits = checkpoint.model(torch.tensor([whole[:-1]])).logits[0, len(context) - 1 :]
                    scores.append(float(logits.log_softmax(-1).gather(1, torch.tensor(own)[:, None]).sum()))
                else:
                    scores.append(by_hand(checkpoint, "llama", context, own, policy)[0])
            answers.append(np.argmax(scores) == document["label"])
        right.append(np.array(answers, dtype=float))
    assert found.before == pytest.approx(right[0].mean())
    assert found.after == pytest.approx(right[1].mean())
    assert found.difference == pytest.approx((right[1] - right[0]).mean())
    assert found.difference_stderr == pytest.approx((right[1] - right[0]).std(ddof=1) / 20**0.5)
    assert found.before_stderr == pytest.approx(right[0].std(ddof=1) / 20**0.5)


@needs_harness
def test_text_is_written_by_the_edited_model(checkpoints, tasks):
    from lm_eval.api.instance import Instance

    checkpoint = checkpoints("gpt2")
    item = between(checkpoint.config, SITE, -INF, INF, positions="last")
    prompts = sentences(5)
    model = harness_model(checkpoint, 3)
    asked = [
        Instance("generate_until", {}, (prompt, {"until": ["zzz"], "max_gen_toks": 5}), place)
        for place, prompt in enumerate(prompts)
    ]
    with edit(checkpoint.model, item):
        found = model.generate_until(asked, disable_tqdm=True)
    expected = [each.edited for each in side_by_side(checkpoint, [item], prompts, Decoding(5))]
    assert found == expected
    (metric,) = run_tasks(checkpoint, [item], ["local_written"], include_path=tasks, limit=3)
    assert (metric.metric, metric.n) == ("exact_match", 3)


@needs_harness
def test_whole_texts_have_no_prompt(checkpoints, tasks):
    checkpoint = checkpoints("gpt2")
    everywhere, last = (between(checkpoint.config, SITE, -INF, INF, positions=name) for name in ("all", "last"))
    (found,) = run_tasks(checkpoint, [everywhere], ["local_text"], include_path=tasks, limit=3)
    assert found.metric == "word_perplexity"
    assert found.after != found.before
    assert found.difference_stderr is None, "no mean over documents"
    with pytest.raises(UserError) as caught:
        run_tasks(checkpoint, [everywhere, last], ["local_text"], include_path=tasks, limit=3)
    assert str(caught.value) == (
        "a task scores whole texts, which have no prompt, and an edit is not of all tokens. "
        "Leave the task away, or --positions all."
    )


@needs_harness
def test_the_harness_has_a_tokenizer_of_its_own_and_reads_as_much_as_the_model_takes(checkpoints):
    checkpoint = checkpoints("gpt2")
    model = harness_model(checkpoint, 3)
    assert model.batch_size == 3
    assert model.tokenizer is not checkpoint.tokenizer
    assert model.tokenizer.get_vocab() == checkpoint.tokenizer.get_vocab()
    assert model.max_length == checkpoint.config.max_position_embeddings
    checkpoint.tokenizer.model_max_length, known = 20, checkpoint.tokenizer.model_max_length
    try:
        model = harness_model(checkpoint)
        assert (model.max_length, model.tokenizer.model_max_length) == (20, 20), "a copy, not one that is loaded anew"
    finally:
        checkpoint.tokenizer.model_max_length = known
    padding, checkpoint.tokenizer.pad_token = checkpoint.tokenizer.pad_token, None
    try:
        assert harness_model(checkpoint).tokenizer.pad_token is not None
        assert checkpoint.tokenizer.pad_token is None
    finally:
        checkpoint.tokenizer.pad_token = padding


@needs_harness
def test_an_edit_of_nothing_changes_no_metric(checkpoints, tasks):
    checkpoint = checkpoints("gemma2")
    idle = between(checkpoint.config, SITE, INF, -INF)
    for found in run_tasks(checkpoint, [idle], ["local_*"], include_path=tasks, limit=4):
        assert found.after == found.before


@needs_harness
def test_a_task_that_is_not_there(checkpoints, tasks):
    checkpoint = checkpoints("gpt2")
    with pytest.raises(
        UserError, match=r"--tasks: the harness has no task .local_choise.. Did you mean .local_choice."
    ):
        run_tasks(checkpoint, [], ["local_choise"], include_path=tasks)
    with pytest.raises(UserError, match=r"'zzzz'. lm-eval ls tasks lists them; --include-path names a folder\."):
        run_tasks(checkpoint, [], ["zzzz"], include_path=tasks)


@needs_harness
@pytest.mark.parametrize("folder", [None, Path("of/tasks")])
def test_tasks_of_a_folder_are_looked_for_where_one_is_named(checkpoints, folder, monkeypatch):
    told = []

    class Nothing:
        all_tasks = ()

        def __init__(self, include_path):
            told.append(include_path)

        def match_tasks(self, _):
            return []

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Nothing)
    with pytest.raises(UserError, match="the harness has no task"):
        run_tasks(checkpoints("gpt2"), [], ["zzzz"], include_path=folder)
    assert told == [None if folder is None else str(folder)]


def test_a_classifier_has_nothing_to_be_asked(checkpoints):
    checkpoint = checkpoints("bert")
    with pytest.raises(CheckpointError) as caught:
        run_tasks(checkpoint, [], ["local_choice"])
    assert str(caught.value) == (
        f"{checkpoint.path}: is a classifier, and the harness asks language models. Name a language model."
    )


@needs_harness
def test_data_that_cannot_be_had_are_told_of(checkpoints, tasks, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route\nat all")

    monkeypatch.setattr(lm_eval, "simple_evaluate", unreachable)
    with pytest.raises(UnreachableError) as caught:
        run_tasks(checkpoints("gpt2"), [], ["local_choice", "local_text"], include_path=tasks)
    assert str(caught.value) == (
        "the data of local_choice or local_text cannot be had (no route). "
        "Check the network, or name tasks over local files with --include-path."
    )


@needs_harness
def test_the_verb(checkpoints, tasks, tmp_path, capfd):
    checkpoint = checkpoints("gpt2")
    Lens.of(between(checkpoint.config, SITE, -INF, INF), checkpoint, concept="a").save(tmp_path / "lens")
    words = ["harness", "--tasks", "local_choice", "--edit", str(tmp_path / "lens"), "--limit", "6"]
    words += ["--checkpoint", str(checkpoint.path), "--include-path", str(tasks)]
    capfd.readouterr()
    assert main([*words, "--json"]) == 0
    (told,) = json.loads(capfd.readouterr().out)
    assert (told["task"], told["metric"], told["n"]) == ("local_choice", "acc", 6)
    assert main(words) == 0
    assert "local_choice  acc     6" in capfd.readouterr().out


def test_without_the_extra_a_sentence_says_what_to_install(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    told = r"^needs lm-evaluation-harness \(.*lm_eval.*\)\. Install it: pip install 'neuronlens\[harness\]'\.$"
    with pytest.raises(UserError, match=told):
        run_tasks(checkpoints("gpt2"), [], ["arc_easy"])


def run(values, reported, stderr=0.1):
    """What the harness returns of a task with a metric over documents and one that has no error."""
    samples = [{"doc_id": i, "filter": "none", "acc": value} for i, value in enumerate(values)]
    others = [{"doc_id": i, "filter": "strict", "acc": 1 - i} for i in range(len(values))]
    return {
        "results": {
            "t": {
                "alias": "t",
                "acc,none": reported,
                "acc_stderr,none": stderr,
                "ppl,none": 3.0,
                "ppl_stderr,none": "N/A",
            }
        },
        "samples": {"t": samples + others},
        "n-samples": {"t": {"effective": len(values)}},
    }


def test_differences_are_paired_where_a_metric_is_a_mean_over_documents():
    acc, ppl = compared(run([1, 0, 1, 1], 0.75), run([1, 0, 0, 0], 0.25, 0.2))
    assert (acc.n, acc.before, acc.after, acc.difference, acc.before_stderr) == (4, 0.75, 0.25, -0.5, 0.1)
    assert acc.difference_stderr == pytest.approx(np.std([0, 0, -1, -1], ddof=1) / 2)
    assert (ppl.difference, ppl.difference_stderr, ppl.before_stderr) == (0.0, None, None)
    weighted, _ = compared(run([1, 0, 1, 1], 0.9), run([1, 0, 0, 0], 0.25))
    assert weighted.difference_stderr is None, "no mean, whatever the documents say"
    assert (acc.task, acc.metric, acc.filter, acc.after_stderr) == ("t", "acc", "none", 0.2)
    assert [part.metric for part in compared(run([1, 0], 0.5), run([1, 1], 1.0))] == ["acc", "ppl"]


def test_a_difference_is_paired_only_where_documents_are_the_same_and_more_than_one():
    def stderr(before, after, means, **how):
        return compared(*(run(part, mean, **how) for part, mean in zip((before, after), means, strict=True)))[0]

    assert stderr([1, 0], [1, 1], (0.5, 1.0)).difference_stderr == pytest.approx(0.5), "two are enough"
    assert stderr([1], [0], (1.0, 0.0)).difference_stderr is None
    assert stderr([1, 0, 1], [1, 0], (2 / 3, 0.5)).difference_stderr is None, "not the same documents"
    assert stderr([1, [0]], [1, [1]], (0.5, 1.0)).difference_stderr is None, (
        "a metric that makes one number of all of them"
    )
    off = stderr([1e6, 3e6], [1e6, 1e6], (2e6 + 1, 1e6))
    assert off.difference_stderr is not None, "the harness rounds"
    assert stderr([0, 0], [0, 0], (1e-10, 0)).difference_stderr == 0.0
    bare = {"results": {"t": {"acc,none": 0.5}}, "n-samples": {}}
    (found,) = compared(bare, bare)
    assert (found.n, found.difference, found.difference_stderr, found.after_stderr) == (None, 0.0, None, None)
