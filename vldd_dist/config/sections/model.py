"""model: the dual encoder, its towers, heads and adapters."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from vldd_dist.config.base import AnyPlugin, Positive, Section, choose, plugin_of
from vldd_dist.plugins import LOSSES

# Values of `image.weights` that name weights; any other is a file.
NAMED_WEIGHTS = ("timm", "random", "attributes")

# What each of them is, and of which encoders: models/text/poolings.py.
PoolingName = Literal["cls", "mean", "eos", "projected"]


class LoraSettings(Section):
    """Low-rank adapters (peft) on the image tower."""

    rank: Positive = Field(4, description="Rank of the adapters.")
    alpha: Positive = Field(4, description="Scale: the adapter's output is multiplied by alpha / rank.")
    targets: str = Field(r".*\.attn\.(qkv|proj)", description="Regular expression over module names that get an adapter.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout before the adapters.")


class HeadSettings(Section):
    """The projection from a tower's features to the joint space."""

    kind: Literal["none", "linear", "projection"] = Field(
        "projection",
        description="none: features are the joint space; linear; projection: Linear, GELU, Linear, dropout, residual, LayerNorm.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Dropout of a projection head.")


class ImageTowerSettings(Section):
    """The image tower: a timm backbone."""

    model: str = Field("nfnet_l0", description="Name of a timm model.")
    model_args: dict[str, JsonValue] = Field(default_factory=dict, description="Further arguments of timm.create_model.")
    weights: str = Field(
        "timm",
        description="timm: the model's pretrained weights; random; attributes: pretrained on built-in scenes (scenes only); else the path or URL of a .safetensors file.",
    )
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="Per-channel mean of pixels scaled to 0..1, subtracted."
    )
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="Per-channel standard deviation, divided by.")
    train: Literal["full", "lora", "head", "frozen"] = Field(
        "full",
        description="Which parameters move: all, adapters and head, head, none. Batch-norm statistics never move.",
    )
    lora: LoraSettings = Field(default_factory=LoraSettings)
    head: HeadSettings = Field(default_factory=lambda: HeadSettings(kind="none"))
    grad_checkpointing: bool = Field(False, description="Recompute activations in the backward pass (less memory, more time).")


class TextTowerSettings(Section):
    """The text tower: a frozen transformers encoder whose caption embeddings are computed once, and a head."""

    model: str = Field(
        "bert-base-uncased",
        description="A hub id or folder of a text model, or of a CLIP or SigLIP model of which the text part is used; minilm: the "
        "packaged all-MiniLM-L6-v2; tiny-clip: a small CLIP text model with random weights from a fixed seed and a byte-level "
        "vocabulary, to try things out on built-in scenes.",
    )
    revision: str | None = Field(None, description="Revision of a hub model (a commit makes the run repeatable).")
    pooling: PoolingName = Field(
        "cls",
        description="How token states become one vector. BERT and the like: cls, the first token's state, or mean, of all tokens; "
        "T5: mean; CLIP: projected, its text embedding, or eos, the end-of-text token's state before the projection; SigLIP: "
        "projected.",
    )
    max_tokens: Positive = Field(30, description="Captions are cut to this many tokens, start and end tokens included.")
    scale: Literal["none", "sqrt_dim"] = Field(
        "none", description="sqrt_dim: each embedding scaled to norm sqrt(D); none: as the encoder gives it."
    )
    train: Literal["head", "frozen"] = Field(
        "head",
        description="Which parameters move: the head, or none. The encoder itself is always frozen (docs/decisions.md).",
    )
    head: HeadSettings = Field(default_factory=HeadSettings)


class ModelSettings(Section):
    """The dual encoder."""

    image: ImageTowerSettings = Field(default_factory=ImageTowerSettings)
    text: TextTowerSettings = Field(default_factory=TextTowerSettings)
    joint_dim: Positive | None = Field(
        None,
        description="Size of the joint space; none: the image features' size (needed where both towers have a head).",
    )
    loss: Annotated[AnyPlugin, plugin_of(LOSSES, default="infonce")] = Field(
        default_factory=lambda: choose(LOSSES, "infonce"),
        description="The loss of students, and of experts where experts.loss names no other.",
    )

    @property
    def has_features(self) -> bool:
        """Whether the image tower is frozen, with weights that all models share: its features are units' output."""
        return self.image.train in ("head", "frozen") and self.image.weights != "random"
