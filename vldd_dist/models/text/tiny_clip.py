"""A small CLIP text model that needs no download: random weights from a fixed seed, byte-level vocabulary.

It is for trying things out. A random transformer gives captions with different words different vectors, which is all that the
built-in scenes need; it knows nothing about the meaning of words.
"""

from typing import Any

import torch
from torch import nn

from vldd_dist.models import libraries
from vldd_dist.seeding import numpy_generator

NAME = "tiny-clip"
# Increase it with any change of the vocabulary or the weights.
VERSION = 2
WIDTH, LAYERS, HEADS, PROJECTION, POSITIONS = 128, 2, 4, 128, 77
IDENTITY = {"model": NAME, "version": VERSION, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "projection": PROJECTION}
# Words that are one token each, among them those of the built-in scenes. Any other text has one token for each byte.
WORDS = (
    "a the is on of and with at in to there picture background side by one other "
    "left right above below top bottom over under circle square triangle star cross ring "
    "red orange yellow green blue purple pink brown white black grey beige large small"
)
START, END = "<|startoftext|>", "<|endoftext|>"


def config() -> Any:
    """A CLIPTextConfig."""
    numbers = _vocabulary()
    return libraries.transformers().CLIPTextConfig(
        vocab_size=len(numbers),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=PROJECTION,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        bos_token_id=numbers[START],
        eos_token_id=numbers[END],
        pad_token_id=numbers[END],
    )


def tokenizer() -> Any:
    """A tokenizer of lower-cased text. A token is a known word with the space before it, or a byte of any other word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = _vocabulary()
    # There are no merges, so a word that is not a token as a whole is split into bytes.
    fast = Tokenizer(models.BPE(vocab=numbers, merges=[], ignore_merges=True))
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    fast.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, numbers[START]), (END, numbers[END])]
    )
    return libraries.transformers().PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token=START, eos_token=END, pad_token=END
    )


@torch.no_grad()
def load(model_class: str) -> nn.Module:
    """The model as a class of transformers, CLIPTextModel or CLIPTextModelWithProjection.

    Each weight is drawn from a seed made of its name, not in the order in which transformers initialises. So it is the same in
    both classes, in every process and with other versions of the libraries.
    """
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = getattr(libraries.transformers(), model_class)(config())
    for path, parameter in model.named_parameters():
        # CLIPTextModelWithProjection holds the other class as `text_model`.
        name = path.removeprefix("text_model.")
        if "norm" in name:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            draws = numpy_generator(NAME, VERSION, name).standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(draws * _deviation(name, parameter)))
    return model


def _deviation(name: str, parameter: torch.Tensor) -> float:
    """The standard deviation of a weight's elements."""
    if "token_embedding" in name:
        return 1.0
    if "position_embedding" in name:
        return 0.3
    # Most layers preserve the scale of their input. Smaller query and key weights make attention soft, and larger output
    # weights give its result more weight, so that a caption's vector depends on all of its words more than on its last token.
    gain = 0.5 if "q_proj" in name or "k_proj" in name else 2.0 if "out_proj" in name else 1.0
    return float(gain * parameter.shape[1] ** -0.5)


def _vocabulary() -> dict[str, int]:
    from tokenizers import pre_tokenizers

    # The alphabet stands for the 256 bytes; its Ġ for the space before a word.
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {token: number for number, token in enumerate([*bytes_, *(f"Ġ{word}" for word in WORDS.split()), START, END])}
