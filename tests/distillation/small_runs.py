"""Small runs of the outer loop, which take seconds: frozen features, linear heads, images that are functions of their caption's
vector."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching, TrajectoryMatchingProblem
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.errors import InterruptedRun
from vldd_dist.evaluation.evaluator import Evaluator, TrainingPairs, train_student
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, retrieval_split
from vldd_dist.store.store import Store

TEXT_DIM, PAIRS, SIZE = 6, 8, 16
LOSS = InfoNCE()


def model() -> DualEncoder:
    image = ImageTowerSettings(model="test_nfnet", weights="random", train="head", head=HeadSettings(kind="linear"))
    text = TextTowerSettings(head=HeadSettings(kind="linear"))
    return build(ModelSettings(image=image, text=text, joint_dim=16), TEXT_DIM, None, 0)


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, 16, 16) uint8 that are a blurred linear function of their text vectors (n, 6)."""
    texts = torch.randn(count, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
    drawing = torch.randn(TEXT_DIM, 3 * 4 * 4, generator=torch.Generator().manual_seed(99))
    small = (texts @ drawing).reshape(count, 3, 4, 4)
    pictures = torch.nn.functional.interpolate(small, SIZE, mode="nearest")
    return (128 + 20 * pictures).clamp(0, 255).to(torch.uint8), texts


def split(seed: int, count: int = 60) -> RetrievalSplit:
    pictures, texts = scenes(count, seed)
    return retrieval_split(model(), pictures, texts, torch.arange(count), 30)


class Snapshots:
    """A trajectory in memory."""

    def __init__(self, epochs: list[dict[str, dict[str, Tensor]]]) -> None:
        self.epochs = epochs

    def snapshot(self, epoch: int, tower: str) -> dict[str, Tensor]:
        return self.epochs[epoch][tower]

    def prefetch(self, epoch: int, towers: Sequence[str]) -> None: ...


class Inputs(NamedTuple):
    """What a small distillation starts from: experts, and the tensors of the pairs."""

    experts: list[Snapshots]
    start: dict[str, Tensor]


def make_inputs() -> Inputs:
    """Two experts of four epochs on 400 pairs, and eight of the pairs."""
    pictures, texts = scenes(400, 0)
    experts = []
    for seed in (0, 1):
        student = model()
        epochs = [{tower: _copies(student, tower) for tower in ("image", "text")}]
        pairs = TrainingPairs({"images": student.normalise(pictures), "texts": texts}, len(texts)).in_model_inputs(student)
        for epoch in range(4):
            settings = EvaluationProtocol(epochs=1, batch_size=20, momentum=0, weight_decay=0)
            assert train_student(student, pairs, settings, 1.0, LOSS, 10 * seed + epoch)
            epochs.append({tower: _copies(student, tower) for tower in ("image", "text")})
        experts.append(Snapshots(epochs))
    return Inputs(experts, {"images": model().normalise(pictures[:PAIRS]), "texts": texts[:PAIRS]})


def _copies(student: DualEncoder, tower: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ParameterView(student).as_dict(tower).items()}


SETTINGS = DistillationSettings(
    objective=TrajectoryMatching(inner_steps=6, max_start_epoch=1, inner_lr_image=1.0, inner_lr_text=1.0),
    outer_steps=60,
    lr_images=0.1,
    lr_texts=0.1,
    validate_every=20,
    checkpoint_every=20,
)


def changed(changes: dict[str, Any]) -> DistillationSettings:
    """The settings with changes to them or to those of the objective."""
    of_objective = {key: value for key, value in changes.items() if key in TrajectoryMatching.model_fields}
    rest = {key: value for key, value in changes.items() if key not in of_objective}
    return SETTINGS.model_copy(update={"objective": SETTINGS.objective.model_copy(update=of_objective), **rest})


def distillation(
    inputs: Inputs,
    store: Store,
    validate: Callable[[SyntheticPairs], float] = lambda pairs: 0.0,
    loss: InfoNCE = LOSS,
    **changes: Any,
) -> Distillation:
    settings = changed(changes)
    nothing: Any = None
    context = DistillationContext(
        settings=settings,
        total=PAIRS,
        seed=3,
        model=model(),
        loss=loss,
        embeddings=nothing,
        image_features=None,
        report=lambda event: None,
    )
    unroller = LocalUnroller(context.model, settings.objective.inner_loss(loss), settings.objective, None)
    experts = Experts(2, lambda index: inputs.experts[index])  # type: ignore[arg-type, return-value]
    matching = TrajectoryMatchingProblem(settings.objective, context, unroller, experts, seed=3)
    pairs, rates = start_pairs(inputs, settings, loss)
    return Distillation(
        matching, pairs, rates, context, validate=validate, writer=UnitWriter(store, "distillation", "0", {}, {})
    )


def start_pairs(
    inputs: Inputs, settings: DistillationSettings, loss: InfoNCE = LOSS
) -> tuple[SyntheticPairs, dict[str, float]]:
    learned = settings.objective.learned_shared() | loss.learned_shared()
    rows = {name: tensor.clone() for name, tensor in inputs.start.items()}
    rates = settings.outer_rates() | {name: one.lr for name, one in learned.items()}
    fixed = frozenset(name for name, rate in rates.items() if rate == 0)
    return SyntheticPairs(rows, {name: one.start for name, one in learned.items()}, fixed=fixed), rates


def recall(pairs: SyntheticPairs, judged: RetrievalSplit) -> float:
    settings = EvaluationProtocol(epochs=60, learning_rates=[0.1, 1.0], batch_size=PAIRS)
    trained_on = TrainingPairs(pairs.rows, PAIRS, shared=pairs.shared)
    return Evaluator(model, settings, LOSS, 0).choose(trained_on, judged).recall.mean


def losses_of(inputs: Inputs, store: Store, **changes: Any) -> tuple[Tensor, Distillation]:
    """The terms (S, 2) of the loss at each outer step, and the distillation."""
    run = distillation(inputs, store, outer_steps=3, validate_every=3, **changes)
    run.run()
    curves = run.history.as_tensors()
    return torch.stack([curves["terms.image"], curves["terms.text"]], dim=1), run


def stopped_run(
    inputs: Inputs, folder: Path, stop_at: int, **changes: Any
) -> tuple[Distillation, dict[str, Any], Distillation]:
    """An uninterrupted run with its facts, and an equal run that resumes from a run that was stopped after so many outer
    steps."""
    straight, broken = (Store(str(folder / name)) for name in ("straight", "broken"))
    whole = distillation(inputs, straight, **changes)
    facts = whole.run()
    first = distillation(inputs, broken, **changes)
    steps = iter(range(100))
    first.should_stop = lambda: next(steps) == stop_at
    with pytest.raises(InterruptedRun):
        first.run()
    return whole, facts, distillation(inputs, broken, **changes)
