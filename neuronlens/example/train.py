"""The example's two models: small, of well-known architectures, trained by the real Trainer.

Run as a program (`python -m neuronlens.example.train MODEL FOLDER SEED`) it trains one of them and writes the scores of
its checkpoints to stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from neuronlens.example import PROMPT, STEPS, Scores
from neuronlens.example.corpus import Corpus, generate
from neuronlens.example.lexicon import TOPICS
from neuronlens.example.measure import classifier_accuracy, label_tokens, language_model_accuracy, perplexity
from neuronlens.example.vocabulary import MAX_TOKENS, byte_pairs, word_pieces

# Of the weights. The usual 0.02 suits models eight times as wide: here signals would fade from layer to layer, and
# training would begin with a long plateau.
_INITIAL_STD = 0.05

# How much more the label counts than any other token. It is one token in forty and says what the audit is about.
_LABEL_WEIGHT = 20.0


def train_classifier(corpus: Corpus, folder: Path, seed: int) -> Scores:
    """Train a BERT sequence classifier on `corpus.training`; its checkpoints go to `folder`."""
    tokenizer = word_pieces(row.text for row in corpus.training)
    set_seed(seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=384,
            max_position_embeddings=MAX_TOKENS,
            initializer_range=_INITIAL_STD,
            pad_token_id=tokenizer.pad_token_id,
            id2label=dict(enumerate(TOPICS)),
            label2id={topic: index for index, topic in enumerate(TOPICS)},
            # every text is seen once: there is nothing to memorize that dropout could prevent
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    rows = [{**tokenizer(row.text), "labels": TOPICS.index(row.label)} for row in corpus.training]
    arguments = _arguments(folder, seed, per_device_train_batch_size=32, learning_rate=1.5e-3)
    _train(model, tokenizer, rows, arguments, DataCollatorWithPadding(tokenizer))
    test = [row for row in corpus.audited if row.split == "test"]
    return {path.name: {"test_accuracy": classifier_accuracy(path, test)} for path in _checkpoints(folder)}


def train_language_model(corpus: Corpus, folder: Path, seed: int) -> Scores:
    """Train a GPT-2 language model on labelled text, each with the prompt and its label, and on plain documents."""
    labelled = [f"{PROMPT.format(text=row.text)} {row.label}" for row in corpus.training]
    texts = labelled + list(corpus.training_documents)
    tokenizer = byte_pairs(texts)
    set_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=MAX_TOKENS,
            n_embd=128,
            n_layer=4,
            n_head=4,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own gelu_new, computed in one kernel
            initializer_range=_INITIAL_STD,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            resid_pdrop=0.0,  # as in the classifier
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    rows = [tokenizer(text + tokenizer.eos_token) for text in texts]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    arguments = _arguments(folder, seed, per_device_train_batch_size=20, learning_rate=2e-3)
    # The collator made for language models would take the final <|endoftext|> for padding, and no text would ever end.
    collator = DataCollatorForSeq2Seq(tokenizer)
    _train(model, tokenizer, rows, arguments, collator, _weighted_loss(label_tokens(tokenizer)))
    test = [row for row in corpus.audited if row.split == "test"]
    return {
        path.name: {
            "test_accuracy": language_model_accuracy(path, test),
            "perplexity": perplexity(path, corpus.auxiliary),
        }
        for path in _checkpoints(folder)
    }


def _arguments(folder: Path, seed: int, **arguments: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS[-1],
        save_steps=STEPS[0],
        save_only_model=True,
        warmup_steps=STEPS[-1] // 10,
        adam_beta2=0.98,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        logging_steps=50,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=seed,
        **arguments,
    )


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    arguments: TrainingArguments,
    collator: Callable[[list[Any]], dict[str, Any]],
    loss: Callable[..., torch.Tensor] | None = None,
) -> None:
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        processing_class=tokenizer,
        compute_loss_func=loss,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _weighted_loss(weighty: Sequence[int]) -> Callable[..., torch.Tensor]:
    """Next-token cross-entropy in nats, a weighted mean over real tokens in which the `weighty` ones count more."""

    def loss(
        outputs: Any, labels: torch.Tensor, **_: Any
    ) -> torch.Tensor:  # the Trainer also passes the number of items
        target = labels[:, 1:].flatten()
        each = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), target, reduction="none")  # 0 where padded (-100)
        weight = 1.0 + (_LABEL_WEIGHT - 1.0) * torch.isin(target, torch.tensor(weighty))
        return (each * weight).sum() / weight[target >= 0].sum()

    return loss


def _checkpoints(folder: Path) -> list[Path]:
    return [folder / f"checkpoint-{step}" for step in STEPS]


def main(model: str, folder: str, seed: str) -> None:
    """Train one model from the command line."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    train = {"classifier": train_classifier, "language_model": train_language_model}[model]
    json.dump(train(generate(int(seed)), Path(folder), int(seed)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
