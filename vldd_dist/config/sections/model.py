"""model: the dual encoder, its towers, heads and adapters."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, JsonValue, NonNegativeFloat, PositiveFloat

from vldd_dist.config.base import HOW_TO_RUN, AnyPlugin, Positive, Section, choose, plugin_of
from vldd_dist.plugins import LOSSES

# Values of `image.weights` with a meaning of their own; any other value is a file.
NAMED_WEIGHTS = ("timm", "random", "attributes")

# Values of `image.train` with which the backbone is not trained.
FROZEN_BACKBONE = ("head", "frozen")

# models/text/poolings.py defines them and says which encoders have them.
PoolingName = Literal["cls", "mean", "eos", "projected"]

Arguments = TypeVar("Arguments", bound=Mapping[str, Any])


def without_weights(arguments: Arguments) -> Arguments:
    """The arguments of timm.create_model themselves; raises ValueError if one says where weights come from. With such an
    argument, a distilled set made by others could read any file, request any URL and write what it answers to any folder; and
    the identity of a unit has the file's path, but not its content."""
    for name in arguments:
        if name in ("checkpoint_path", "cache_dir") or name.startswith("pretrained"):
            raise ValueError(f"{name} says where weights come from: remove it, and name them by `weights`")
    return arguments


# Further arguments of timm.create_model.
ModelArguments = Annotated[dict[str, JsonValue], AfterValidator(without_weights)]


def _of_scaled_pixels(value: float) -> float:
    """A mean or standard deviation of pixels in 0..1; raises ValueError for one of pixels in 0..255, which some libraries use."""
    if value > 1:
        raise ValueError("pixels are scaled to 0..1 first: divide it by 255")
    return value


PixelMean = Annotated[NonNegativeFloat, AfterValidator(_of_scaled_pixels)]
PixelStd = Annotated[PositiveFloat, AfterValidator(_of_scaled_pixels)]


class LoraSettings(Section):
    """Low-rank adapters (peft) on the image tower."""

    rank: Positive = Field(4, description="Rank of the adapters.")
    alpha: Positive = Field(4, description="Scale: the adapter's output is multiplied by alpha / rank.")
    targets: str = Field(
        r".*\.attn\.(qkv|proj)",
        description="Regular expression for the full names of the linear layers (`nn.Linear` only) that get an adapter.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout probability before the adapters.")


class HeadSettings(Section):
    """The projection from a tower's features to the joint space."""

    kind: Literal["none", "linear", "projection"] = Field(
        "projection",
        description="none: the tower's features are used as they are; linear: one linear layer; projection: Linear, GELU, Linear, "
        "dropout, residual connection, LayerNorm.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Dropout probability of a projection head.")

    def without_effect(self) -> frozenset[str]:
        return frozenset() if self.kind == "projection" else frozenset({"dropout"})


class ImageTowerSettings(Section):
    """The image tower: a timm backbone."""

    model: str = Field("nfnet_l0", description="Name of a timm model.")
    model_args: ModelArguments = Field(default_factory=dict, description="Further arguments of timm.create_model.")
    weights: str = Field(
        "timm",
        description="timm: timm's pretrained weights; random: random weights; attributes: weights pretrained on the attributes of "
        "built-in scenes (only with data.source: scenes); any other value: the path or URL of a .safetensors file. Position "
        "embeddings of another image size are resampled as timm does.",
    )
    mean: tuple[PixelMean, PixelMean, PixelMean] = Field(
        (0.485, 0.456, 0.406),
        description="Per-channel mean that is subtracted from pixels scaled to 0..1. It does not follow `model`: set the value that "
        "the weights were trained with.",
    )
    std: tuple[PixelStd, PixelStd, PixelStd] = Field(
        (0.229, 0.224, 0.225),
        description="Per-channel standard deviation that pixels are divided by. It does not follow `model` either.",
    )
    train: Literal["full", "lora", "head", "frozen"] = Field(
        "full",
        description="Which parameters are trained. full: all; lora: adapters and head; head: only the head; frozen: none. "
        "Batch-norm statistics are never updated.",
    )
    lora: LoraSettings = Field(default_factory=LoraSettings)
    head: HeadSettings = Field(default_factory=lambda: HeadSettings(kind="none"))
    grad_checkpointing: Annotated[bool, HOW_TO_RUN] = Field(
        False, description="Recompute activations in the backward pass (less memory, more time)."
    )

    @property
    def freezes_backbone(self) -> bool:
        """Whether no parameter of the backbone is trained, and no adapter: the features of an image then stay the same."""
        return self.train in FROZEN_BACKBONE

    @property
    def draws_backbone(self) -> bool:
        """Whether each student draws a backbone of its own: it is trained from random weights."""
        return self.weights == "random" and self.train == "full"

    def without_effect(self) -> frozenset[str]:
        return frozenset() if self.train == "lora" else frozenset({"lora"})


class TextTowerSettings(Section):
    """The text tower: a frozen transformers encoder, whose caption embeddings are computed once, and a head."""

    model: str = Field(
        "bert-base-uncased",
        description="Hub id or folder of a text model, or of a CLIP or SigLIP model, whose text part is used; minilm: the packaged "
        "all-MiniLM-L6-v2; tiny-clip: a small CLIP text model with a byte-level vocabulary and random weights from a fixed seed, to "
        "try things out on built-in scenes.",
    )
    revision: str | None = Field(
        None, description="Revision of a hub model; a commit makes the run reproducible. null: the hub's default."
    )
    pooling: PoolingName = Field(
        "cls",
        description="How the states of a caption's tokens become one vector. cls: the first token's state (BERT and similar "
        "encoders); mean: the mean of all tokens (BERT and similar encoders, T5); projected: the model's text embedding (CLIP, "
        "SigLIP); eos: the state of the end-of-text token before the projection (CLIP).",
    )
    max_tokens: Positive = Field(30, description="Captions are truncated to this many tokens, including start and end tokens.")
    scale: Literal["none", "sqrt_dim"] = Field(
        "none",
        description="sqrt_dim: scale each embedding of size D to the norm sqrt(D); none: leave it as the encoder returns it.",
    )
    train: Literal["head", "frozen"] = Field(
        "head",
        description="Which parameters are trained. head: only the head; frozen: none. The encoder itself is always frozen, because "
        "distilled texts are vectors of its output.",
    )
    head: HeadSettings = Field(default_factory=HeadSettings)


class ModelSettings(Section):
    """The dual encoder."""

    image: ImageTowerSettings = Field(default_factory=ImageTowerSettings)
    text: TextTowerSettings = Field(default_factory=TextTowerSettings)
    joint_dim: Positive | None = Field(
        None,
        description="Size of the joint space; null: the size of the image features. Required if the image tower has a head.",
    )
    loss: Annotated[AnyPlugin, plugin_of(LOSSES, default="infonce")] = Field(
        default_factory=lambda: choose(LOSSES, "infonce"),
        description="Training loss of students, and of experts unless experts.loss names another.",
    )

    @property
    def has_features(self) -> bool:
        """Whether all models share one frozen image backbone, so that units compute its features once."""
        return self.image.freezes_backbone and self.image.weights != "random"
