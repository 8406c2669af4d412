"""The outer loop on a problem of seconds: frozen features, linear heads, pictures that show their caption's vector."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.distillation import DistillSettings
from vldd_dist.config.evaluation import EvaluationSettings
from vldd_dist.config.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.experts import Experts
from vldd_dist.distillation.outer_loop import Distillation, History
from vldd_dist.distillation.pairs import SyntheticPairs, start_from_real
from vldd_dist.distillation.unrolling import LocalUnrolling
from vldd_dist.errors import DivergenceError, InterruptedRun
from vldd_dist.evaluation.evaluator import Judge, TrainingPairs, train_student
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, measure, retrieval_split
from vldd_dist.seeding import derive_seed
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store

TEXT_DIM, PAIRS, SIZE = 6, 8, 16
TEMPERATURE = 0.07


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
    return retrieval_split(model(), pictures, texts, [["x"]] * count, 30)


class Snapshots:
    """A trajectory in memory."""

    def __init__(self, epochs: list[dict[str, dict[str, Tensor]]]) -> None:
        self.epochs = epochs

    def snapshot(self, epoch: int, tower: str) -> dict[str, Tensor]:
        return self.epochs[epoch][tower]

    def prefetch(self, epoch: int) -> None: ...


class Problem(NamedTuple):
    experts: list[Snapshots]
    start: SyntheticPairs


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Two experts of four epochs on 400 pairs, and eight of the pairs."""
    pictures, texts = scenes(400, 0)
    experts = []
    for seed in (0, 1):
        student = model()
        epochs = [{tower: _copies(student, tower) for tower in ("image", "text")}]
        pairs = TrainingPairs(student.normalise(pictures), texts, len(texts))
        for epoch in range(4):
            settings = EvaluationSettings(epochs=1, batch_size=20, momentum=0, weight_decay=0)
            assert train_student(student, pairs, settings, 1.0, TEMPERATURE, 10 * seed + epoch)
            epochs.append({tower: _copies(student, tower) for tower in ("image", "text")})
        experts.append(Snapshots(epochs))
    start = start_from_real(model().normalise(pictures[:PAIRS]), texts[:PAIRS], SETTINGS, [], [])
    return Problem(experts, start)


def _copies(student: DualEncoder, tower: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ParameterView(student).as_dict(tower).items()}


SETTINGS = DistillSettings(
    outer_steps=60,
    inner_steps=6,
    max_start_epoch=1,
    inner_lr_image=1.0,
    inner_lr_text=1.0,
    lr_images=0.1,
    lr_texts=0.1,
    validate_every=20,
    checkpoint_every=20,
)


def distillation(
    problem: Problem, store: Store, validate: Callable[[SyntheticPairs], float] = lambda pairs: 0.0, **changes: Any
) -> Distillation:
    settings = SETTINGS.model_copy(update=changes)
    run: Distillation = Distillation(
        LocalUnrolling(model(), TEMPERATURE, settings, None),
        start_pairs(problem, settings),
        PAIRS,
        Experts(2, lambda index: problem.experts[index]),  # type: ignore[arg-type, return-value]
        settings,
        seed=3,
        validate=validate,
        writer=UnitWriter(store, "distillation", "0", {}, {}),
        report=lambda event: None,
        ranks=SOLO,
    )
    return run


def start_pairs(problem: Problem, settings: DistillSettings) -> SyntheticPairs:
    return start_from_real(problem.start.images, problem.start.texts, settings, [], [])


def recall(pairs: SyntheticPairs, judged: RetrievalSplit) -> float:
    settings = EvaluationSettings(epochs=60, learning_rates=[0.1, 1.0], batch_size=PAIRS)
    return Judge(model, settings, TEMPERATURE, 0).choose(TrainingPairs(pairs.images, pairs.texts, PAIRS), judged).recall.mean


def test_distillation_lowers_the_matching_loss_and_the_pairs_beat_their_start(problem: Problem, store: Store) -> None:
    """Chosen on one set of pairs, judged on another."""
    validation, test = split(1), split(2)
    run = distillation(problem, store, lambda pairs: recall(pairs, validation))
    facts = run.run()
    losses = [total for total, _, _ in run.history.losses]
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    # Both towers, each in its own term.
    for tower in (1, 2):
        terms = [entry[tower] for entry in run.history.losses]
        assert sum(terms[-10:]) < 0.9 * sum(terms[:10])
    assert facts["best_step"] > 0
    assert [step for step, _ in facts["validation"]] == [0, 20, 40, 60]
    assert facts["best_validation"] == max(found for _, found in facts["validation"])
    untrained, before, after = measure(model(), test, 30).mean, recall(problem.start, test), recall(run.best, test)
    assert untrained + 5 < before
    assert before + 8 < after


def losses_of(problem: Problem, store: Store, **changes: Any) -> tuple[Tensor, Distillation]:
    """(S, 3) losses, and the run."""
    run = distillation(problem, store, outer_steps=3, validate_every=3, **changes)
    run.run()
    return run.history.as_tensors()["losses"], run


@pytest.fixture(scope="module")
def plain(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    first, again = (losses_of(problem, Store(str(tmp_path_factory.mktemp("plain"))))[0] for _ in range(2))
    assert torch.equal(first, again)
    return first


@pytest.mark.parametrize(
    ("changes", "from_the_first_step"),
    [
        ({"batch_size": 3}, True),
        ({"inner_steps": 5}, True),
        ({"inner_lr_image": 0.7}, True),
        ({"inner_lr_text": 0.7}, True),
        ({"expert_epochs": 2}, True),
        ({"max_start_epoch": 3}, True),
        ({"optimiser": "sgd"}, False),
        ({"lr_images": 0.5}, False),
        ({"lr_texts": 0.2}, False),
        ({"lr_rates": 0.1}, False),
        ({"gradient": "tesla"}, False),
    ],
    ids=str,
)
def test_settings_are_not_ignored(
    changes: dict[str, Any], from_the_first_step: bool, problem: Problem, plain: Tensor, store: Store
) -> None:
    """The loss of the first outer step is that of the start; what the outer step does is seen from the second on."""
    other, _ = losses_of(problem, store, **changes)
    assert torch.equal(plain[0], other[0]) is not from_the_first_step
    assert not torch.equal(plain[1:], other[1:])


@pytest.mark.parametrize("name", ["images", "texts", "log_rates"])
def test_a_rate_of_nothing_keeps_what_it_moves(name: str, problem: Problem, store: Store) -> None:
    still = {"images": "lr_images", "texts": "lr_texts", "log_rates": "lr_rates"}[name]
    _, run = losses_of(problem, store, **{still: 0.0})
    start = start_pairs(problem, SETTINGS).as_tensors()
    for key, value in run.pairs.as_tensors().items():
        assert torch.equal(value, start[key]) is (key == name), key


def test_the_best_validated_pairs_are_published(problem: Problem, store: Store) -> None:
    """Not the last ones, nor those of an equal later validation."""
    told = iter([10.0, 30.0, 30.0, 20.0])
    seen: list[SyntheticPairs] = []

    def validate(pairs: SyntheticPairs) -> float:
        seen.append(pairs.clone())
        return next(told)

    run = distillation(problem, store, validate, outer_steps=5, validate_every=2)
    facts = run.run()
    assert facts["validation"] == [(0, 10.0), (2, 30.0), (4, 30.0), (5, 20.0)]
    assert (facts["best_step"], facts["best_validation"]) == (2, 30.0)
    assert torch.equal(run.best.images, seen[1].images)
    assert not torch.equal(run.best.images, run.pairs.images)


def test_a_run_diverges_by_the_mean_of_twenty_steps(problem: Problem, store: Store) -> None:
    run = distillation(problem, store, max_loss=1.0)
    run.history = History([(0.5, 0, 0)] * 100 + [(1.0, 0, 0)] * 19)
    run._refuse_divergence(119, 1.0)
    with pytest.raises(
        DivergenceError, match=r"averages 1.05 over the 20 outer steps up to 119, more than distill.max_loss \(1\)"
    ):
        run._refuse_divergence(119, 2.0)
    run.history = History([(9.0, 0, 0)] * 18)
    run._refuse_divergence(18, 9.0)
    with pytest.raises(DivergenceError, match="the matching loss is nan at outer step 18"):
        run._refuse_divergence(18, float("nan"))
    # NaN, infinite, and so small that it is nothing.
    for logarithm, rate in ((torch.nan, "nan"), (200.0, "inf"), (-200.0, "0.0")):
        run.pairs.log_rates[0] = logarithm
        with pytest.raises(DivergenceError, match=rf"inner learning rates are \[{rate}, .*\] at outer step 0"):
            run.outer_step(0)


def test_a_step_draws_its_masks_by_seed_and_step_and_checkpoints_come_every_so_often(problem: Problem, store: Store) -> None:
    run = distillation(problem, store, outer_steps=7, checkpoint_every=3)
    gradient, save = run.unrolling.gradient, run.checkpoints.save
    seeds: list[int] = []
    saved: list[int] = []

    def watched(start: Any, target: Any, rates: Any, batches: Any, seed: int, relative_step: float | None) -> Any:
        seeds.append(seed)
        return gradient(start, target, rates, batches, seed, relative_step)

    def counted(step: int, *rest: Any) -> None:
        saved.append(step)
        save(step, *rest)

    run.unrolling.gradient = watched  # type: ignore[method-assign]
    run.checkpoints.save = counted  # type: ignore[method-assign]
    run.run()
    assert seeds == [derive_seed(3, "dropout", step) for step in range(7)]
    assert saved == [3, 6]


def test_a_run_goes_on_from_its_checkpoint_to_the_same_bits(problem: Problem, tmp_path: Any) -> None:
    """With finite differences: the step is not chosen again, and the figures of checks are kept."""
    changes = {"outer_steps": 7, "checkpoint_every": 3, "gradient": "finite_difference", "check_every": 2}
    straight, broken = (Store(str(tmp_path / name)) for name in ("straight", "broken"))
    whole = distillation(problem, straight, **changes)
    facts = whole.run()
    first = distillation(problem, broken, **changes)
    steps = iter(range(100))
    first.should_stop = lambda: next(steps) == 5
    with pytest.raises(InterruptedRun):
        first.run()
    resumed = distillation(problem, broken, **changes)
    assert resumed.run() == facts
    assert [step for step, _ in facts["difference_check"]["later"]] == [2, 4, 6]
    assert resumed.step_choice == whole.step_choice
    assert resumed.history == whole.history
    for name, value in whole.pairs.as_tensors().items():
        assert torch.equal(resumed.pairs.as_tensors()[name], value)
        assert torch.equal(resumed.best.as_tensors()[name], whole.best.as_tensors()[name])
