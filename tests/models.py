"""Tiny random models of every supported family, made from configs, saved as Hugging Face checkpoints with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

_LINE = (
    "the a of to bank pitch net court cell charge match goal bond virus ball team score loan rate market atom light energy doctor "
    "patient fever law vote party wave code chip data new old was is in on with and for Topic: sports finance science health yes no"
)
WORDS = _LINE.split()
CONCEPTS = ("finance", "health", "science", "sports")
ENCODERS = ("bert", "distilbert", "roberta", "deberta-v2", "electra", "modernbert")
DECODERS = (
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "opt",
    "bloom",
)
# with the head that a family is mostly used with; what is tested of many shapes and settings is tested on these
CLASSIFIERS = ENCODERS[:3]
LANGUAGE_MODELS = ("gpt2", "gpt_neox", "llama", "qwen2", "gemma2")
FAMILIES = (*CLASSIFIERS, *LANGUAGE_MODELS)
# every family with every head that transformers has for it
HEADS = (
    *((family, "classifier") for family in ENCODERS),
    *((family, head) for family in DECODERS for head in ("language_model", "classifier")),
)
LAYERS, HIDDEN, INNER = 3, 16, 24
VOCABULARY = 400


def tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Words with [CLS] and [SEP] for the encoders, byte-level BPE for the decoders."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    if family in ENCODERS:
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


_SIZES = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_ENCODER = {**_SIZES, "max_position_embeddings": 64}
_GROUPED = {**_ENCODER, "num_key_value_heads": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": {**_SIZES, "max_position_embeddings": 66, "type_vocab_size": 1},
    "distilbert": {"dim": HIDDEN, "hidden_dim": INNER, "n_layers": LAYERS, "n_heads": 4, "max_position_embeddings": 64},
    "deberta-v2": {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "electra": {**_ENCODER, "embedding_size": 12},
    "modernbert": {
        **_ENCODER,
        "local_attention": 6,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "gpt2": {"n_embd": HIDDEN, "n_inner": INNER, "n_layer": LAYERS, "n_head": 4, "n_positions": 64},
    "gpt_neox": _ENCODER,
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 6},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "phi3": _GROUPED,
    "olmo2": _GROUPED,
    "opt": {**_ENCODER, "ffn_dim": INNER, "word_embed_proj_dim": 12},
    "bloom": {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4},
}


def random_model(family: str, seed: int = 0, head: str | None = None, **overrides: Any) -> PreTrainedModel:
    """A small random model, spread widely enough that its answers differ from row to row.

    Args:
        head: `classifier` or `language_model`; what decoders are mostly used as unless told otherwise.
    """
    torch.manual_seed(seed)
    classifies = (head or ("classifier" if family in ENCODERS else "language_model")) == "classifier"
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "initializer_range": 0.4,
    }
    if classifies:
        names = dict(enumerate(CONCEPTS))
        common |= {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    config = CONFIG_MAPPING[family](**common | SHAPES.get(family, _GROUPED) | overrides)
    loader = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    model: PreTrainedModel = loader.from_config(config)
    return model.eval()


def with_random_gains(model: PreTrainedModel) -> PreTrainedModel:
    """Gains and biases are random too; a fresh model has ones and zeros there, which hide what goes missing."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def save_checkpoint(folder: Path, family: str, seed: int = 0, **overrides: Any) -> Path:
    """A random model and its tokenizer as a checkpoint folder."""
    random_model(family, seed, **overrides).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    from tests.models_page import write

    write()
