"""The sections of an experiment's description, one class a part, each field with its meaning and unit.

Unknown keys are refused everywhere. `vldd_dist.experiment.Experiment` gathers the sections and checks what
concerns several of them.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

Item = TypeVar("Item")


def _distinct(values: list[Item]) -> list[Item]:
    """What is listed twice would be made once and counted as two runs."""
    if twice := [value for position, value in enumerate(values) if value in values[:position]]:
        raise ValueError(f"{twice[0]!r} is listed twice: name each value once")
    return values


# No set of pictures is larger, and no product of two such numbers overflows a tensor's size.
LARGEST = 10**9
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# Of at least one value, each once.
Distinct = Annotated[list[Item], Field(min_length=1, max_length=10_000), AfterValidator(_distinct)]
Rate = Annotated[float, Field(gt=0)]
ZeroStage = Literal[0, 1, 2, 3]
Precision = Literal["fp32", "bf16"]
PRECISION = "Of the backbone's forward and backward passes; parameters, heads, the loss and sums of gradients are fp32."


# How many scenes are drawn when a description does not say.
SCENES_BY_DEFAULT = {"train": 2000, "val": 200, "test": 200}


class Section(BaseModel):
    """A part of the description: immutable, unknown keys refused, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AugmentSettings(Section):
    """Random changes of a real picture while an expert trains."""

    crop_scale: tuple[float, float] = Field(
        (0.5, 1.0), description="Random resized crop: smallest and largest area kept, as fractions."
    )
    flip: bool = Field(True, description="Mirror left-right with probability 1/2 (wrong where captions say left or right).")
    randaugment_ops: NonNegative = Field(2, description="RandAugment operations a picture; 0 switches them off.")
    randaugment_magnitude: Annotated[int, Field(ge=0, le=10)] = Field(7, description="RandAugment magnitude, 0..10.")


class DataSettings(Section):
    """Where pictures and captions come from and how they are prepared."""

    source: Literal["scenes", "karpathy", "shards"] = Field(
        "scenes",
        description="scenes: drawn by the package; karpathy: a Karpathy-style JSON and a folder of images; shards: WebDataset tars (img2dataset output too).",
    )
    train: str | None = Field(
        None, description="shards: URLs of the training tars (globs, {000..012} braces, '::' between several)."
    )
    val: str | None = Field(None, description="shards: URLs of the validation tars.")
    test: str | None = Field(None, description="shards: URLs of the test tars.")
    annotations: str | None = Field(None, description="karpathy: path of the JSON file with splits and sentences.")
    images: str | None = Field(None, description="karpathy: folder that holds the images the JSON names.")
    train_images: Positive | None = Field(
        None,
        description="Pictures in the training split: how many scenes to draw, or the largest number to take of a given source (none: all).",
    )
    val_images: Positive | None = Field(None, description="The same for the validation split.")
    test_images: Positive | None = Field(None, description="The same for the test split.")
    image_size: Annotated[int, Field(gt=0, le=16_384)] = Field(224, description="Side of the square pictures, pixels.")
    resize: Literal["squash", "crop"] = Field(
        "squash", description="squash: both sides to image_size; crop: short side to image_size, then the centre."
    )
    shard_images: Positive = Field(1000, description="Pictures a shard.")
    licence: str = Field("unknown", description="Licence of the pictures and captions, for the distilled set's card.")
    max_bad_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Largest fraction of a split's samples that may be unreadable (picture or captions) at preparation; one more stops the run.",
    )


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

    model: str = Field("bert-base-uncased", description="A hub id, a folder, or 'minilm' for the packaged all-MiniLM-L6-v2.")
    revision: str | None = Field(None, description="Revision of a hub model (a commit makes the run repeatable).")
    pooling: Literal["cls", "mean"] = Field("cls", description="How token states become one vector.")
    max_tokens: Positive = Field(30, description="Captions are cut to this many tokens.")
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
    temperature: Rate = Field(0.07, description="Temperature the cosine similarities are divided by.")


class Resources(Section):
    """What one worker of a stage asks Ray for."""

    cpus: Annotated[float, Field(gt=0)] = Field(1, description="CPU cores.")
    gpus: Annotated[float, Field(ge=0)] = Field(0, description="GPUs; a fraction shares one.")
    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory of the GPU a worker gets, GiB: what `--plan` compares its estimate with; none: not compared."
    )


class PretrainSettings(Section):
    """Attribute classification on a disjoint set of built-in scenes (image.weights: attributes)."""

    images: Positive = Field(3000, description="Scenes drawn for it, disjoint from the experiment's.")
    epochs: Positive = Field(8)
    batch_size: Positive = Field(64)
    lr: Rate = Field(1e-3, description="Adam learning rate.")
    resources: Resources = Field(default_factory=Resources)


class EmbeddingSettings(Section):
    """Caption embeddings: each distinct caption goes through the frozen text tower once."""

    batch_size: Positive = Field(128)
    resources: Resources = Field(default_factory=Resources)


class ExpertSettings(Section):
    """Training of the experts on all real pairs."""

    count: Positive = Field(20, description="Number of experts.")
    epochs: Positive = Field(10, description="Epochs; a snapshot is kept after each one that matters.")
    batch_size: Positive = Field(128)
    lr_image: Rate = Field(0.1, description="SGD learning rate of the image tower.")
    lr_text: Rate = Field(0.1, description="SGD learning rate of the text tower.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0)
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0)
    augment: AugmentSettings | None = Field(default_factory=AugmentSettings)
    readers: Positive = Field(1, description="Shards read at once; at most the number of training shards.")
    cache_mib: NonNegative = Field(
        0,
        description="Decoded pictures kept on each node, for all its experts and epochs, MiB; used only when the whole split fits.",
    )
    keep: Literal["reachable", "all"] = Field(
        "reachable",
        description="Snapshots kept: those distillation can reach (max_start_epoch + expert_epochs) and the last, or all.",
    )
    precision: Precision = Field("fp32", description=PRECISION)
    workers: Positive = Field(1, description="Ranks that train one expert together; each asks for `resources`.")
    zero_stage: ZeroStage = Field(
        0, description="DeepSpeed ZeRO stage: 0 replicas, 1 momentum sharded, 2 gradients too, 3 parameters too."
    )
    rank_timeout_seconds: Positive = Field(
        600, description="A rank that does not answer the others for so long is given up, and the epoch starts again."
    )
    resources: Resources = Field(default_factory=Resources)


class DistillSettings(Section):
    """Bi-trajectory matching: what is learned, from what start, with which gradient."""

    pairs: Distinct[Positive] = Field([100], description="Budgets M: one run for each and each seed.")
    seeds: Distinct[Seed] = [0]
    initialise: Literal["real", "noise", "kmeans"] = Field(
        "real",
        description="Start of the synthetic pairs: random real pairs; Gaussian noise; the real pairs nearest to k-means centres of joint features.",
    )
    outer_steps: Positive = Field(2000)
    inner_steps: Positive = Field(8, description="Student steps an outer step (syn_steps).")
    batch_size: Positive | None = Field(None, description="Pairs an inner step; none: all M (mini_batch_size).")
    expert_epochs: Positive = Field(1, description="Epochs of the expert that the student's steps must match.")
    max_start_epoch: NonNegative = Field(2, description="Start snapshots are drawn from 0..max_start_epoch.")
    min_experts: Positive | None = Field(
        None,
        description="A run starts when so many experts, the first ones, are committed; the others join its draws one by one over the first half of its outer steps. None: it waits for all, and draws from all.",
    )
    gradient: Literal["full", "exact", "finite_difference", "tesla"] = Field(
        "exact", description="How the unroll is differentiated (README.md, The gradient)."
    )
    difference: Literal["central", "forward"] = Field("central", description="Scheme of finite_difference.")
    precision: Precision = Field("fp32", description=f"{PRECISION} Not with finite_difference.")
    dropout: bool = Field(False, description="Run the student with its dropout (masks replayed) instead of without.")
    optimiser: Literal["sgd", "adam"] = Field("adam", description="Outer optimiser; adam uses betas (0.5, 0.9).")
    lr_images: Rate = Field(0.05, description="Outer learning rate of the images (lr_img).")
    lr_texts: Rate = Field(0.05, description="Outer learning rate of the text embeddings (lr_txt).")
    lr_rates: Annotated[float, Field(ge=0)] = Field(
        0.01, description="Outer learning rate of the log inner learning rates (lr_lr); 0 keeps them fixed."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="Momentum of the outer sgd.")
    inner_lr_image: Rate = Field(0.1, description="Inner learning rate of the image tower at the start (lr_teacher_img).")
    inner_lr_text: Rate = Field(0.1, description="Inner learning rate of the text tower at the start (lr_teacher_txt).")
    max_loss: Rate = Field(
        20.0,
        description="A matching loss whose mean over 20 outer steps is larger stops the run as diverged (2 = neither tower of the student has moved).",
    )
    check_tolerance: Rate = Field(
        0.05,
        description="Largest relative error of an unroll's gradient against `exact`, on a few pairs, at start-up and later (finite_difference).",
    )
    check_every: Positive = Field(100, description="Outer steps between checks of finite_difference against `exact`.")
    workers: Positive = Field(1, description="Ranks of one run; each owns its share of the pairs and asks for `resources`.")
    zero_stage: ZeroStage = Field(
        0,
        description="How the student lies on the ranks: 0 whole on each; 1, 2 whole, gradients in shards by DeepSpeed; 3 in shards. Snapshots and the adjoint are sharded at every stage.",
    )
    rank_timeout_seconds: Positive = Field(
        600,
        description="A rank that does not answer the others for so long is given up, and the run starts again from its checkpoint.",
    )
    offload_snapshots: Literal["none", "cpu", "nvme"] = Field(
        "none",
        description="Where the unroll's snapshots wait: with the student, in the host's memory, or on its disk (VLDD_SCRATCH_DIR).",
    )
    validate_every: Positive = Field(
        200, description="Outer steps between validations; the best validated pairs are published."
    )
    checkpoint_every: Positive = Field(50, description="Outer steps between checkpoints.")
    resources: Resources = Field(default_factory=Resources)


class CoresetSettings(Section):
    """The baselines: M real pairs."""

    methods: Annotated[list[Literal["random", "herding", "k_center", "forgetting"]], AfterValidator(_distinct)] = [
        "random",
        "herding",
        "k_center",
        "forgetting",
    ]
    resources: Resources = Field(default_factory=Resources)


class EvaluationSettings(Section):
    """Students trained on M pairs from the starting weights: coresets and distilled sets alike."""

    seeds: Distinct[Seed] = [0, 1, 2, 3, 4]
    epochs: Positive = Field(100, description="Epochs of the student on the pairs.")
    batch_size: Positive = Field(128)
    learning_rates: Distinct[Rate] = Field([0.01, 0.1], description="Each set's is chosen on validation from this one list.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9)
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4)
    encode_batch: Positive = Field(128, description="Pictures a forward pass when recall is measured.")
    image_models: Annotated[list[str], AfterValidator(_distinct)] = Field(
        [], description="Further timm models (random or timm weights) for cross-architecture rows."
    )
    resources: Resources = Field(default_factory=Resources)
