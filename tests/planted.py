"""A language model built by hand whose neurons speak in ranges: what an audit of it must find is known beforehand.

Three neurons serve six concepts. Neuron 0 is in [2, 3] on texts that end in a word of `apple`, in [5, 6] on those of `brick`, and 0 on all
others; neuron 1 does the same for `cloud` and `drum`, neuron 2 for `engine` and `ferry`. The model is a stock GPT-2 of three blocks whose
attention adds nothing:

* every word is embedded as its value v / 4 for its pair, a constant 1, and a filling that gives all words one norm and the mean 0, so that
  layer norm is the same known factor for all of them;
* block 0 does nothing; the MLP of block 1 computes the planted neurons, relu(v): they are `mlp_post.1` and, added up, `resid_post.1`;
* the MLP of block 2 reads them through bumps of ReLUs, one per concept: 1 on [2, 3.5] and 0 below 1 and above 4.5, or 1 from 5 on and 0
  below 4. A ReLU sees v minus a multiple of the constant, with weights that sum to 0, so no layer norm moves its edge;
* the head names the concept whose bump is up, and `unsure` where none is.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

PAIRS = (("apple", "brick"), ("cloud", "drum"), ("engine", "ferry"))
CONCEPTS = tuple(concept for pair in PAIRS for concept in pair)
INTERVALS = ((2.0, 3.0), (5.0, 6.0))
VARIANTS = 12  # words of a concept, whose values are spread evenly over its interval
FILLERS = tuple(f"filler{i}" for i in range(20))
WIDTH = 32  # neurons of resid_post and of mlp_post
LAYER = 1  # the block that computes the planted neurons
SITES = (f"mlp_post.{LAYER}", f"resid_post.{LAYER}")

# coordinates of the residual stream; those from 0 to 2 are the planted neurons
KEY, MINUS_KEY, CONSTANT, MINUS_CONSTANT, FILL, MINUS_FILL, EMPTY, ANSWER = 3, 6, 9, 10, 11, 12, 13, 14
_SQUARED_NORM = 2 * (6 / 4) ** 2 + 2  # of the largest value and the constant; FILL makes up for smaller values
_CERTAIN, _UNSURE = 40.0, 4.0  # logits of a concept and of `unsure`, before the last layer norm


def partner(concept: str) -> str:
    """The concept that shares its neuron."""
    return next(two if one == concept else one for one, two in PAIRS if concept in (one, two))


def neuron_of(concept: str) -> int:
    """The planted neuron of a concept."""
    return CONCEPTS.index(concept) // 2


def value_of(word: str) -> float:
    """What the planted neuron of a word's concept is on that word."""
    concept, _, variant = word.partition("-")
    low, high = INTERVALS[CONCEPTS.index(concept) % 2]
    return low + (high - low) * (int(variant) + 0.5) / VARIANTS


def vocabulary() -> list[str]:
    """Special tokens, labels, fillers, and the words of the concepts."""
    own = [f"{concept}-{variant}" for concept in CONCEPTS for variant in range(VARIANTS)]
    return ["[PAD]", "[UNK]", "unsure", *CONCEPTS, *FILLERS, *own]


def rows(*, fit: int = 36, validation: int = 1, test: int = 24, seed: int = 0) -> list[tuple[str, str, str]]:
    """(text, concept, split): some fillers, then a word of the concept. No text stands twice."""
    generator, found = random.Random(seed), {}
    for split, count in (("fit", fit), ("validation", validation), ("test", test)):
        for concept in CONCEPTS:
            for row in range(count):
                text = ""
                while not text or text in found:
                    text = " ".join(
                        [*generator.choices(FILLERS, k=generator.randint(2, 5)), f"{concept}-{row % VARIANTS}"]
                    )
                found[text] = (text, concept, split)
    return list(found.values())


def build() -> GPT2LMHeadModel:
    """The model."""
    words = vocabulary()
    config = GPT2Config(
        vocab_size=len(words),
        n_embd=WIDTH,
        n_inner=WIDTH,
        n_layer=3,
        n_head=4,
        n_positions=32,
        activation_function="relu",
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float(".ln_" in name and name.endswith("weight")))
        for index, word in enumerate(words):
            model.transformer.wte.weight[index] = _embedding(word)
        first, second = (model.transformer.h[layer].mlp for layer in (LAYER, LAYER + 1))
        # layer norm divides every embedding, whose mean is 0, by this
        scale = (_SQUARED_NORM / WIDTH + config.layer_norm_epsilon) ** 0.5
        for pair in range(len(PAIRS)):
            first.c_fc.weight[KEY + pair, pair] = 4 * scale
            first.c_proj.weight[pair, pair] = 1.0
        unit = 0
        for at, concept in enumerate(CONCEPTS):
            for threshold, slope in ((1, 1), (2, -1), (3.5, -1), (4.5, 1)) if at % 2 == 0 else ((4, 1), (5, -1)):
                second.c_fc.weight[[neuron_of(concept), CONSTANT, EMPTY], unit] = torch.tensor(
                    [1.0, -threshold, threshold - 1.0]
                )
                second.c_proj.weight[unit, ANSWER + at] = slope
                unit += 1
            model.lm_head.weight[words.index(concept), ANSWER + at] = _CERTAIN
        model.lm_head.weight[words.index("unsure"), [CONSTANT, EMPTY]] = torch.tensor([_UNSURE, -_UNSURE])
    return model


def save_planted(folder: Path) -> Path:
    """The model with its tokenizer, a token a word, as a checkpoint folder."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    build().save_pretrained(folder)
    return folder


def settings(folder: Path) -> list[str]:
    """What makes an audit of the model, one neuron a concept; its checkpoint and data are put into a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict(zip(("text", "label", "split"), map(list, zip(*rows(), strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "ends.parquet")
    return [
        "preset=official",
        f"checkpoint.path={save_planted(folder / 'model')}",
        f"dataset.path={folder / 'ends.parquet'}",
        "dataset.prompt='{text}'",
        f"extract.sites=[{', '.join(SITES)}]",
        f"interventions.top={1 / WIDTH}",
        "interventions.controls=random_neurons",
        "evaluate.scoring=free",  # a model that names none of the concepts is wrong, whichever the concept was
    ]


def _embedding(word: str) -> torch.Tensor:
    """[WIDTH], of mean 0 and squared norm `_SQUARED_NORM`."""
    vector = torch.zeros(WIDTH)
    vector[CONSTANT], vector[MINUS_CONSTANT] = 1.0, -1.0
    own = 0.0
    if "-" in word:
        own, pair = value_of(word) / 4, neuron_of(word.partition("-")[0])
        vector[KEY + pair], vector[MINUS_KEY + pair] = own, -own
    rest = (_SQUARED_NORM / 2 - 1 - own**2) ** 0.5
    vector[FILL], vector[MINUS_FILL] = rest, -rest
    return vector
