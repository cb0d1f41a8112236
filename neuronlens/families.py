"""Families: where the stock transformers classes keep their blocks, and in a block what reads, adds and is added.

docs/models.md is the same table with what the tests have found of each family and site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Attention:
    """Where a block keeps its attention, as paths below the block.

    Attributes:
        module: takes hidden states of all tokens and returns what each token gathered, first of a tuple.
        entrance: the module that hands it the hidden states: the norm in front of it, or itself where the norm comes behind.
        out: projection that every token's gathered values pass one by one.
        query: projection that makes the queries. None where they cannot be had apart from keys and values.
        query_first: whether it makes queries, keys and values at once, a third of its outputs each.
        mlp: the module that ends with the MLP's down projection, or the one whose output that takes.
    """

    module: str
    entrance: str
    out: str
    query: str | None
    mlp: str
    query_first: bool = False


def always(_: Any) -> bool:
    """Of every config."""
    return True


def never(_: Any) -> bool:
    """Of no config."""
    return False


@dataclass(frozen=True)
class Family:
    """Where a model type keeps its parts, as paths below its base model (the model without a head).

    Attributes:
        blocks: the ModuleList of transformer blocks.
        mlp_down: the MLP's down projection, below a block; its input is what `mlp_post` means (act(gate) * up where gated).
        attn_out: below a block, the module whose output is what attention adds to the residual stream; `mlp_out`: the MLP likewise. None:
            not found.
        attention: what short cuts within a block need to know. None: they are not taken.
        layers: config attribute that counts the blocks.
        inner: config attribute with the MLP's width, or the width; where it is None in the config the width is 4 x hidden (GPT-2).
        decoder: causal attention; decides which token stands for a row.
        flat: whether the MLP sees the tokens of all rows in one line, [B T, D].
        padded_positions: whether positions are counted from pad_token_id + 1, which so many of them are lost to.
        one_token: of a config, whether its classifier reads one token of what the last block gives: the first, or a decoder's last.
        guessed: what nobody has said and the structure of the model has shown, in words.
    """

    blocks: str
    mlp_down: str | None
    attn_out: str | None
    mlp_out: str | None
    attention: Attention | None = None
    layers: str = "num_hidden_layers"
    inner: str | int = "intermediate_size"
    decoder: bool = True
    flat: bool = False
    padded_positions: bool = False
    one_token: Callable[[Any], bool] = always
    guessed: tuple[str, ...] = ()


def _reads_the_first_token(config: Any) -> bool:
    return bool(config.classifier_pooling == "cls")


def _ends_with_a_block(config: Any) -> bool:
    """A convolution over tokens behind the first block stands between the last one and the head where there is but one."""
    return int(getattr(config, "conv_kernel_size", 0) or 0) == 0 or int(config.num_hidden_layers) > 1


_BERT = Family(
    "encoder.layer",
    "output.dense",
    "attention.output.dense",
    "output.dense",
    Attention("attention.self", "attention.self", "attention.output.dense", "attention.self.query", "intermediate"),
    decoder=False,
)
_LLAMA = Family(
    "layers",
    "mlp.down_proj",
    "self_attn.o_proj",
    "mlp.down_proj",
    Attention("self_attn", "input_layernorm", "self_attn.o_proj", "self_attn.q_proj", "mlp"),
)
# with norms between what attention and MLP give and its addition
_GEMMA = replace(_LLAMA, attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm")
FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "distilbert": Family(
        "transformer.layer",
        "ffn.lin2",
        "attention.out_lin",
        "ffn.lin2",
        Attention("attention", "attention", "attention.out_lin", "attention.q_lin", "ffn"),
        layers="n_layers",
        inner="hidden_dim",
        decoder=False,
    ),
    "roberta": replace(_BERT, padded_positions=True),
    "deberta-v2": replace(
        _BERT,
        # the query projection may be asked for queries of relative positions as well
        attention=Attention("attention.self", "attention.self", "attention.output.dense", None, "intermediate"),
        one_token=_ends_with_a_block,
    ),
    "electra": _BERT,
    "modernbert": Family(
        "layers",
        "mlp.Wo",
        "attn.Wo",
        "mlp.Wo",
        Attention("attn", "attn_norm", "attn.Wo", None, "mlp"),
        decoder=False,
        one_token=_reads_the_first_token,
    ),
    "gpt2": Family(
        "h",
        "mlp.c_proj",
        "attn.c_proj",
        "mlp.c_proj",
        Attention("attn", "ln_1", "attn.c_proj", "attn.c_attn", "mlp", query_first=True),
        layers="n_layer",
        inner="n_inner",
    ),
    "gpt_neox": Family(
        "layers",
        "mlp.dense_4h_to_h",
        "attention.dense",
        "mlp.dense_4h_to_h",
        # queries, keys, values alternate by head
        Attention("attention", "input_layernorm", "attention.dense", None, "mlp"),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    # queries, keys and values are made at once
    "phi3": replace(_LLAMA, attention=Attention("self_attn", "input_layernorm", "self_attn.o_proj", None, "mlp")),
    # no norm in front of the attention
    "olmo2": replace(
        _GEMMA, attention=Attention("self_attn", "self_attn", "self_attn.o_proj", "self_attn.q_proj", "mlp")
    ),
    "opt": Family("decoder.layers", "fc2", "self_attn.out_proj", "fc2", inner="ffn_dim", flat=True),
    # attention and MLP return the sum with the residual stream; what is added is what their last projections give
    "bloom": Family(
        "h",
        "mlp.dense_4h_to_h",
        "self_attention.dense",
        "mlp.dense_4h_to_h",
        layers="n_layer",
        inner="n_inner",  # which no config has: four times as wide
    ),
}
