"""How the output of a text model becomes one vector for each caption: the poolings that each family of text models documents.

Shapes: B captions, L tokens, D size of a vector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from vldd_dist.config.sections.model import PoolingName

# Text models that have the same kind of input and the same poolings; see `architecture.FAMILIES`.
Family = Literal["bidirectional encoder", "T5", "CLIP", "SigLIP"]


@dataclass(frozen=True)
class Pooling:
    """One pooling of one family.

    Attributes:
        model_class: the class of transformers that loads exactly what the pooling needs, from a text model or a whole one.
        size: the field of the text model's configuration that holds D.
        vectors: (the model's output, attention mask (B, L)) -> (B, D).
        pads_to_positions: whether captions are padded to all positions of the model, and the padding is attended to, because
            the model was trained so.
    """

    model_class: str
    size: str
    vectors: Callable[[Any, Tensor], Tensor]
    pads_to_positions: bool = False


def _first_state(output: Any, mask: Tensor) -> Tensor:
    state: Tensor = output.last_hidden_state[:, 0]
    return state


def _mean_state(output: Any, mask: Tensor) -> Tensor:
    """The mean over the tokens, without padding."""
    weights = mask[..., None].float()
    mean: Tensor = (output.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1)
    return mean


def _pooler_output(output: Any, mask: Tensor) -> Tensor:
    pooled: Tensor = output.pooler_output
    return pooled


def _text_embeds(output: Any, mask: Tensor) -> Tensor:
    embeds: Tensor = output.text_embeds
    return embeds


# The poolings of each family, in the order in which error messages propose them.
POOLINGS: dict[Family, dict[PoolingName, Pooling]] = {
    "bidirectional encoder": {
        "cls": Pooling("AutoModel", "hidden_size", _first_state),
        "mean": Pooling("AutoModel", "hidden_size", _mean_state),
    },
    "T5": {"mean": Pooling("AutoModelForTextEncoding", "hidden_size", _mean_state)},
    # Its states are causal: only that of the end-of-text token has seen the whole caption (Radford et al. 2103.00020, 2.4).
    "CLIP": {
        "projected": Pooling("CLIPTextModelWithProjection", "projection_dim", _text_embeds),
        "eos": Pooling("CLIPTextModel", "hidden_size", _pooler_output),
    },
    # The projected state of the last position (Zhai et al. 2303.15343).
    "SigLIP": {"projected": Pooling("SiglipTextModel", "projection_size", _pooler_output, pads_to_positions=True)},
}
