"""Every family with every head: its sites are what the stock modules say, and docs/models.md says what is proven here."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from neuronlens.activations.batching import collate, padding_of
from neuronlens.activations.readout import deciding_columns, deciding_logits, has_vocabulary
from neuronlens.activations.tokens import resolve_pooling
from neuronlens.checkpoint import load_checkpoint
from neuronlens.config import DatasetParams
from neuronlens.encoding import encoder_for
from neuronlens.errors import CheckpointError
from neuronlens.sites import COMPONENTS, Site, site_width
from tests import proofs
from tests.models import CONCEPTS, DECODERS, HEADS, HIDDEN, INNER, save_checkpoint, tokenizer
from tests.models_page import PAGE, line

# settings of real checkpoints that move sums, norms or widths
SETTINGS = [
    ("opt", "language_model", {"do_layer_norm_before": False}),
    ("opt", "classifier", {"do_layer_norm_before": False, "word_embed_proj_dim": HIDDEN}),
    ("bloom", "language_model", {"apply_residual_connection_post_layernorm": True}),
    ("gpt_neox", "language_model", {"use_parallel_residual": False}),
    ("deberta-v2", "classifier", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ("deberta-v2", "classifier", {"share_att_key": True}),
    ("electra", "classifier", {"embedding_size": HIDDEN}),
    ("modernbert", "classifier", {"classifier_pooling": "mean"}),
]


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_every_cell_of_the_table_is_proven(family, head):
    assert line(family, head) in PAGE.read_text()


def test_the_table_has_no_other_lines():
    told = [text for text in PAGE.read_text().splitlines() if text.startswith("| `")]
    names = [
        (family, head)
        for text in told
        for family, head in HEADS
        if text.startswith(f"| `{family}` | {head.replace('_', ' ')} |")
    ]
    assert names == list(HEADS)


@pytest.mark.parametrize(("family", "head", "overrides"), SETTINGS)
def test_what_real_checkpoints_are_set_to(family, head, overrides):
    model = proofs.model_of(family, head, **overrides)
    proofs.captured_is_what_stands_there(model)
    proofs.sites_add_up(model)
    proofs.an_idle_edit_changes_no_bit(model)
    proofs.padding_changes_nothing(model)


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_widths_are_the_configs(family, head):
    config = proofs.model_of(family, head).config
    widths = {part: site_width(config, Site(0, part)) for part in COMPONENTS}
    inner = 4 * HIDDEN if family == "bloom" else INNER
    assert widths == {"attn_out": HIDDEN, "mlp_post": inner, "mlp_out": HIDDEN, "resid_post": HIDDEN}


# ---- decoders as classifiers


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", DECODERS)
def test_the_deciding_token_is_the_one_that_the_head_reads(family, side):
    """Changed at that token's vector behind the last block, the classes change; changed at all others, they do not."""
    model = proofs.model_of(family, "classifier")
    assert not has_vocabulary(model)
    batch = collate(proofs.ROWS, range(2), pad_id=proofs.PAD, device="cpu", side=side)
    columns, plain = deciding_columns(model, batch), deciding_logits(model, batch)
    assert plain.shape == (2, len(CONCEPTS))
    here = torch.arange(batch.input_ids.shape[1]) == columns[:, None]
    assert batch.attention_mask[here].all()
    last = model.get_submodule(proofs.reference.BLOCKS[family])[-1]
    for tokens, changes in ((here, True), (~here, False)):

        def shift(_, __, out, tokens=tokens):
            hidden = out[0] if isinstance(out, tuple) else out
            hidden = hidden + tokens[..., None] * torch.linspace(-1, 1, HIDDEN)
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        handle = last.register_forward_hook(shift)
        moved = (deciding_logits(model, batch) - plain).abs().amax(dim=1)
        handle.remove()
        assert ((moved > 1e-3) == changes).all()


def test_a_row_of_a_causal_classifier_ends_before_padding_tokens_of_its_own(tmp_path):
    """A tokenizer that ends rows with the padding token, as those of GPT-2 may, adds tokens that the head does not read."""
    checkpoint = load_checkpoint(save_checkpoint(tmp_path / "model", "gpt2", head="classifier"))
    encoder = encoder_for(checkpoint, DatasetParams())
    padding = checkpoint.tokenizer.pad_token
    plain = encoder.encode(["the bank"])
    assert encoder.encode([f"the bank{padding}", f"the bank{padding}{padding}"]) == plain * 2
    assert encoder.encode([padding * 3]) == [[checkpoint.config.pad_token_id]]


def test_a_causal_classifier_needs_a_padding_token(tmp_path):
    folder = save_checkpoint(tmp_path / "model", "llama", head="classifier", pad_token_id=None)
    with pytest.raises(
        CheckpointError, match=r"names no pad_token_id, by which a causal classifier finds the last token"
    ):
        load_checkpoint(folder)


def test_a_causal_classifier_is_padded_with_the_token_its_head_knows(checkpoints):
    assert padding_of(checkpoints("llama", head="classifier", pad_token_id=3)) == 3
    assert padding_of(checkpoints("llama")) == 0


def test_modernbert_is_pooled_as_its_head_pools():
    assert [
        resolve_pooling("auto", proofs.model_of("modernbert", "classifier", classifier_pooling=how).config)
        for how in ("cls", "mean")
    ] == ["first", "mean"]


def test_encoders_with_a_causal_head_are_refused(tmp_path):
    config = BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    config.is_decoder = True
    BertLMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer("bert").save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="'BertLMHeadModel' is neither a sequence classifier nor a causal"):
        load_checkpoint(tmp_path / "model")
