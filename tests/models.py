"""Tiny random models of every supported family, made from configs, saved as Hugging Face checkpoints with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

_LINE = (
    "the a of to bank pitch net court cell charge match goal bond virus ball team score loan rate market atom light energy doctor "
    "patient fever law vote party wave code chip data new old was is in on with and for Topic: sports finance science health yes no"
)
WORDS = _LINE.split()
CONCEPTS = ("finance", "health", "science", "sports")
CLASSIFIERS = ("bert", "distilbert", "roberta")
LANGUAGE_MODELS = ("gpt2", "gpt_neox", "llama", "qwen2", "gemma2")
FAMILIES = (*CLASSIFIERS, *LANGUAGE_MODELS)
LAYERS, HIDDEN, INNER = 3, 16, 24
VOCABULARY = 400


def tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Words with [CLS] and [SEP] for the encoders, byte-level BPE for the decoders."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    if family in CLASSIFIERS:
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = [f"{word} " * 3 for word in WORDS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", **named)


def random_model(family: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A small random model, spread widely enough that its answers differ from row to row."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "initializer_range": 0.4,
    }
    classes = {"id2label": dict(enumerate(CONCEPTS)), "label2id": {name: i for i, name in enumerate(CONCEPTS)}}
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    grouped = {**sizes, "num_key_value_heads": 2, "max_position_embeddings": 64}
    build: dict[str, Any] = {
        "bert": lambda: BertForSequenceClassification(
            BertConfig(**common | sizes | classes | {"max_position_embeddings": 64} | overrides)
        ),
        "roberta": lambda: RobertaForSequenceClassification(
            RobertaConfig(
                **common | sizes | classes | {"max_position_embeddings": 66, "type_vocab_size": 1} | overrides
            )
        ),
        "distilbert": lambda: DistilBertForSequenceClassification(
            DistilBertConfig(
                **common | classes | {"dim": HIDDEN, "hidden_dim": INNER, "n_layers": LAYERS, "n_heads": 4} | overrides,
                max_position_embeddings=64,
            )
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                **common
                | {"n_embd": HIDDEN, "n_inner": INNER, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
                | overrides
            )
        ),
        "gpt_neox": lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(**common | sizes | {"max_position_embeddings": 64} | overrides)
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common | grouped | overrides)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common | grouped | overrides)),
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**common | grouped | {"head_dim": 8, "sliding_window": 8} | overrides)
        ),
    }
    model: PreTrainedModel = build[family]()
    return model.eval()


def save_checkpoint(folder: Path, family: str, seed: int = 0, **overrides: Any) -> Path:
    """A random model and its tokenizer as a checkpoint folder."""
    random_model(family, seed, **overrides).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder
