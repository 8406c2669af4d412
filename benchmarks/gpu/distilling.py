"""A distillation by trajectory matching with random weights, random pairs and an expert in memory. It uses the package's own
outer loop, but no data sets and none of their libraries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vldd_dist.artifacts.tensor_files.trajectories import ShardSlices
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.distillation.initialisations.base import Initialisation, Start, starting_pairs
from vldd_dist.distillation.initialisations.noise import noise_pairs
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store

SEED = 3
# How far the expert moves in an epoch, relative to a tensor's own size, and at least.
RELATIVE_STEP, SMALLEST_STEP = 0.02, 1e-3

Snapshot = dict[str, dict[str, Tensor]]


class RandomPairs(Initialisation):
    """Random pairs that depend only on their numbers."""

    of_real_pairs: ClassVar[bool] = False
    name: str = "random_pairs"
    image_size: int
    text_dim: int

    def start(self, context: DistillationContext) -> Start:
        mean, std = torch.zeros(self.text_dim), torch.ones(self.text_dim)
        images, texts = noise_pairs(context.rows, (3, self.image_size, self.image_size), mean, std, SEED)
        return Start(images.to(context.device), texts.to(context.device), {})


def new_model(settings: ModelSettings, text_dim: int, device: torch.device) -> DualEncoder:
    """A model with random weights, which are drawn on the device, because that is faster on a GPU for large models."""
    with device:
        return build(settings, text_dim, None, 0)


def distillation_settings(image_size: int, text_dim: int, **changes: Any) -> DistillationSettings:
    """Settings of a run with random pairs; the inner learning rates suit random weights."""
    objective = {"max_start_epoch": 0, "inner_lr_image": 0.01, "inner_lr_text": 0.01} | changes.pop("objective", {})
    start = RandomPairs(image_size=image_size, text_dim=text_dim)
    return DistillationSettings(initialise=start, objective=objective, **changes)


def short_run(image_size: int, text_dim: int, outer_steps: int, **changes: Any) -> DistillationSettings:
    """Settings of a run that writes a checkpoint after every second outer step."""
    objective = {"inner_steps": 2, "gradient": "exact"}
    intervals = {"outer_steps": outer_steps, "validate_every": outer_steps, "checkpoint_every": 2}
    return distillation_settings(image_size, text_dim, objective=objective, **intervals, **changes)


@contextmanager
def distilling(
    model: DualEncoder,
    settings: DistillationSettings,
    pairs: int,
    store: Store,
    *,
    ranks: Ranks = SOLO,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Distillation]:
    """A run before its first outer step, or one that resumes from the checkpoint in the store."""
    epochs = [_snapshot(model, epoch) for epoch in range(2)]
    # Trajectory matching from random pairs reads neither caption embeddings nor features.
    nothing: Any = None

    def open_experts(slices: ShardSlices | None) -> Experts:
        return Experts(1, lambda index: _InMemory(epochs, slices))  # type: ignore[arg-type, return-value]

    context = DistillationContext(
        settings=settings,
        total=pairs,
        seed=SEED,
        model=model,
        loss=InfoNCE(),
        embeddings=nothing,
        image_features=nothing,
        report=lambda event: None,
        ranks=ranks,
        open_experts=open_experts,
        # Its size is all that the start is compared with.
        open_dataset=lambda: SimpleNamespace(image_size=settings.initialise.image_size),  # type: ignore[arg-type, return-value]
    )
    with settings.objective.open(context) as problem:
        start, rates = starting_pairs(context)
        yield Distillation(
            problem,
            start,
            rates,
            context,
            validate=lambda pairs: 0.0,
            writer=UnitWriter(store, "distillation", "0", {}, {}),
            should_stop=should_stop,
        )


class _InMemory:
    """A trajectory in the host's memory, from which each rank gets its slices."""

    def __init__(self, epochs: Sequence[Snapshot], slices: ShardSlices | None) -> None:
        self.epochs, self.slices = epochs, slices

    def snapshot(self, epoch: int, tower: str) -> Mapping[str, Tensor]:
        whole = self.epochs[epoch][tower]
        if self.slices is None:
            return whole
        return {name: whole[name].flatten()[start:stop] for name, (start, stop) in self.slices[tower].items()}

    def prefetch(self, epoch: int, towers: Sequence[str]) -> None:
        """Nothing to do: all snapshots are in memory."""


def _snapshot(model: DualEncoder, epoch: int) -> Snapshot:
    """The model's parameters after this many epochs in a random direction."""
    view = ParameterView(model)

    def moved(value: Tensor) -> Tensor:
        step = (RELATIVE_STEP * value.square().mean().sqrt()).clamp(min=SMALLEST_STEP)
        return (value + epoch * step * torch.randn_like(value)).cpu()

    with replayed_randomness(SEED, epoch, model.mean.device):
        return {tower: {name: moved(value) for name, value in view.as_dict(tower).items()} for tower in TOWERS}
