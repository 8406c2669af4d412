"""The outer loop on small models and few pairs."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distillation.small_runs import (
    LOSS,
    PAIRS,
    SETTINGS,
    Inputs,
    changed,
    distillation,
    losses_of,
    model,
    recall,
    split,
    start_pairs,
    stopped_run,
)
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.distillation.history import History
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatchingProblem
from vldd_dist.distillation.objectives.trajectory_matching.asynchronous import Asynchronous
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import Shortcut
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.errors import DivergenceError, InterruptedRun
from vldd_dist.events import Notice
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.retrieval.encode import measure
from vldd_dist.seeding import derive_seed
from vldd_dist.store.store import Store
from vldd_dist.testing.unroll_cases import relative


def test_distillation_lowers_the_matching_loss_and_the_pairs_beat_their_start(inputs: Inputs, store: Store) -> None:
    """The best step is chosen on the validation pairs, and measured on the test pairs."""
    validation, test = split(1), split(2)
    run = distillation(inputs, store, lambda pairs: recall(pairs, validation))
    facts = run.run()
    losses = run.history.losses
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    # Both towers' terms decrease.
    assert set(run.history.terms) == {"image", "text"}
    for terms in run.history.terms.values():
        assert sum(terms[-10:]) < 0.9 * sum(terms[:10])
    assert facts.best_step > 0
    assert [step for step, _ in facts.validation] == [0, 20, 40, 60]
    assert facts.best_validation == max(found for _, found in facts.validation)
    start, _ = start_pairs(inputs, SETTINGS)
    untrained, before, after = measure(model(), test, 30).mean, recall(start, test), recall(run.best, test)
    assert untrained + 5 < before
    assert before + 8 < after


@pytest.fixture(scope="module")
def plain(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    first, again = (losses_of(inputs, Store(str(tmp_path_factory.mktemp("plain"))))[0] for _ in range(2))
    assert torch.equal(first, again)
    return first


def test_the_limit_of_kept_graphs_does_not_change_the_result(inputs: Inputs, plain: Tensor, store: Store) -> None:
    losses, run = losses_of(inputs, store, tower_graph_mib=0)
    assert torch.equal(losses, plain)
    kept = losses_of(inputs, store)[1]
    assert torch.equal(run.pairs.images, kept.pairs.images)


def test_bf16_is_the_precision_of_a_frozen_backbones_passes(inputs: Inputs) -> None:
    """The forward and backward pass of the pairs through the tower is near to fp32, but not equal. Heads and gradients stay
    fp32."""
    found = []
    for precision in ("fp32", "bf16"):
        settings = changed({"precision": precision})
        nothing: Any = None
        experts = Experts(2, lambda index: inputs.experts[index])  # type: ignore[arg-type, return-value]
        context = DistillationContext(
            settings=settings,
            total=PAIRS,
            seed=3,
            model=model(),
            loss=LOSS,
            embeddings=nothing,
            image_features=None,
            report=nothing,
            open_experts=lambda part, experts=experts: experts,
        )
        with settings.objective.open(context) as matching:
            found.append(matching.gradient(0, start_pairs(inputs, settings)[0]).row_gradients["images"])
    fp32, bf16 = found
    assert bf16.dtype == torch.float32
    assert 1e-4 < relative(bf16, fp32) < 0.05


@pytest.mark.parametrize(
    ("changes", "from_the_first_step"),
    [
        ({"batch_size": 3}, True),
        ({"inner_steps": 5}, True),
        ({"inner_lr_image": 0.7}, True),
        ({"inner_lr_text": 0.7}, True),
        ({"expert_epochs": 2}, True),
        ({"temperature": 0.376}, True),
        ({"max_start_epoch": 3}, True),
        ({"min_start_epoch": 1}, True),
        ({"blend": Blending()}, True),
        ({"shortcut": Shortcut(last_epoch=4)}, True),
        ({"asynchronous": Asynchronous(image=[2])}, True),
        ({"optimiser": "sgd"}, False),
        ({"lr_images": 0.5}, False),
        ({"lr_texts": 0.2}, False),
        ({"lr_rates": 0.1}, False),
        ({"gradient": "tesla"}, False),
    ],
    ids=str,
)
def test_settings_are_not_ignored(
    changes: dict[str, Any], from_the_first_step: bool, inputs: Inputs, plain: Tensor, store: Store
) -> None:
    """The first loss is that of the start; settings of the outer step change the losses from the second one on."""
    other, _ = losses_of(inputs, store, **changes)
    assert torch.equal(plain[0], other[0]) is not from_the_first_step
    assert not torch.equal(plain[1:], other[1:])


def test_the_best_validated_pairs_are_published(inputs: Inputs, store: Store) -> None:
    """Neither the last pairs, nor those of a later validation with an equal result."""
    told = iter([10.0, 30.0, 30.0, 20.0])
    seen: list[SyntheticPairs] = []

    def validate(pairs: SyntheticPairs) -> float:
        seen.append(pairs.clone())
        return next(told)

    run = distillation(inputs, store, validate, outer_steps=5, validate_every=2)
    facts = run.run()
    assert facts.validation == [(0, 10.0), (2, 30.0), (4, 30.0), (5, 20.0)]
    assert (facts.best_step, facts.best_validation) == (2, 30.0)
    assert torch.equal(run.best.images, seen[1].images)
    assert not torch.equal(run.best.images, run.pairs.images)


@pytest.mark.parametrize(("recall", "best_step"), [(50.0, 2), (0.0, 0)])
def test_pairs_that_validate_like_their_start_are_the_learned_ones(
    recall: float, best_step: int, inputs: Inputs, store: Store
) -> None:
    """A recall of 0, as students on diverged pairs have it, is no reason to prefer them."""
    seen: dict[int, SyntheticPairs] = {}

    def validate(pairs: SyntheticPairs) -> float:
        seen[2 * len(seen)] = pairs.clone()
        return recall

    run = distillation(inputs, store, validate, outer_steps=6, validate_every=2)
    events: list[Any] = []
    run.report = events.append
    facts = run.run()
    assert (facts.best_step, facts.best_validation) == (best_step, recall)
    said = [event.text for event in events if isinstance(event, Notice)]
    unchanged = ["no outer step improved the validation recall, so the result is what it started from"]
    assert said == (unchanged if best_step == 0 else [])
    assert torch.equal(run.best.images, seen[best_step].images)
    assert not torch.equal(seen[2].images, seen[0].images)


def test_students_that_diverge_in_a_validation_count_as_the_worst_except_at_the_start(inputs: Inputs, store: Store) -> None:
    """With students that diverge on the start, the evaluation's rates are at fault."""
    told: Iterator[float | None] = iter([10.0, None, 20.0, None])
    seen: list[SyntheticPairs] = []

    def validate(pairs: SyntheticPairs) -> float:
        seen.append(pairs.clone())
        recall = next(told)
        if recall is None:
            raise DivergenceError("students diverge at every learning rate (0.1): add a lower one")
        return recall

    run = distillation(inputs, store, validate, outer_steps=5, validate_every=2)
    events: list[Any] = []
    run.report = events.append
    facts = run.run()
    assert facts.validation == [(0, 10.0), (2, 0.0), (4, 20.0), (5, 0.0)]
    assert torch.equal(run.best.images, seen[2].images)
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert [text.partition(",")[0] for text in notices] == ["after 2 outer steps", "after 5 outer steps"]
    assert all(text.endswith(run.settings.objective.advice) for text in notices)
    told = iter([None])
    with pytest.raises(DivergenceError, match="add a lower one"):
        distillation(inputs, store, validate, outer_steps=5).run()


def test_divergence_is_decided_on_the_mean_loss_of_twenty_steps(inputs: Inputs, store: Store) -> None:
    run = distillation(inputs, store, max_loss=1.0)
    run.history = History([0.5] * 100 + [1.0] * 19)
    run._refuse_divergence(119, 1.0)
    with pytest.raises(
        DivergenceError, match=r"averages 1.05 over the 20 outer steps up to 119, more than distill.objective.max_loss \(1\)"
    ):
        run._refuse_divergence(119, 2.0)
    run.history = History([9.0] * 18)
    run._refuse_divergence(18, 9.0)
    with pytest.raises(DivergenceError, match="the outer loss is nan at outer step 18"):
        run._refuse_divergence(18, float("nan"))
    # NaN, infinity, and a number so small that it rounds to 0.
    for logarithm, rate in ((torch.nan, "nan"), (200.0, "inf"), (-200.0, "0.0")):
        run.pairs.shared["log_rates"][0] = logarithm
        with pytest.raises(DivergenceError, match=rf"inner learning rates are \[{rate}, .*\] at outer step 0"):
            run.outer_step(0)


def matching_of(run: Distillation) -> TrajectoryMatchingProblem:
    assert isinstance(run.problem, TrajectoryMatchingProblem)
    return run.problem


def test_dropout_seeds_and_checkpoint_intervals(inputs: Inputs, store: Store) -> None:
    run = distillation(inputs, store, outer_steps=7, checkpoint_every=3)
    unroller = matching_of(run).unroller
    gradient, save = unroller.gradient, run.checkpoints.save
    seeds: list[int] = []
    saved: list[int] = []

    def watched(student_unroll: StudentUnroll, relative_epsilon: float | None) -> Any:
        seeds.append(student_unroll.seed)
        return gradient(student_unroll, relative_epsilon)

    def counted(step: int, *rest: Any) -> None:
        saved.append(step)
        save(step, *rest)

    unroller.gradient = watched  # type: ignore[method-assign]
    run.checkpoints.save = counted  # type: ignore[method-assign]
    run.run()
    assert seeds == [derive_seed(3, "dropout", step) for step in range(7)]
    assert saved == [3, 6]


def test_an_objective_temperature_equal_to_that_of_the_loss_changes_nothing(
    inputs: Inputs, plain: Tensor, store: Store
) -> None:
    """A temperature of 0.07 in both the loss and the objective; and an objective's temperature that overrides the loss's."""
    for loss in (LOSS, InfoNCE(temperature=1.0)):
        losses, _ = losses_of(inputs, store, temperature=0.07, loss=loss)
        assert torch.equal(losses, plain)


def test_the_objective_temperature_is_used_only_in_student_steps(inputs: Inputs) -> None:
    """The student's loss as the objective creates it: published scripts multiply the cosines by log(1 / 0.07)."""
    nothing: Any = None
    experts = Experts(2, lambda index: inputs.experts[index])  # type: ignore[arg-type, return-value]
    context = DistillationContext(
        settings=changed({"temperature": 1 / math.log(1 / 0.07)}),
        total=PAIRS,
        seed=3,
        model=model(),
        loss=LOSS,
        embeddings=nothing,
        image_features=None,
        report=nothing,
        open_experts=lambda part: experts,
    )
    images, texts = (torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with context.settings.objective.open(context) as matching:
        inner = matching.unroller.student.layout.loss
        cosines = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=2)
        own = torch.arange(5)
        logits = math.log(1 / 0.07) * cosines
        wanted = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
        torch.testing.assert_close(inner(images, texts), wanted)
    assert context.loss.temperature == 0.07


@pytest.mark.parametrize("gradient", ["exact", "finite_difference"])
def test_a_learned_temperature_moves_with_the_pairs_and_resumes(gradient: str, inputs: Inputs, tmp_path: Any) -> None:
    loss, changes = InfoNCE(learn_temperature=True, lr_temperature=0.1), {"outer_steps": 5, "gradient": gradient}
    straight, broken = (Store(str(tmp_path / name)) for name in ("straight", "broken"))
    whole = distillation(inputs, straight, loss=loss, **changes)
    whole.run()
    (start, *_), (end,) = whole.history.shared["log_temperature"], whole.pairs.shared["log_temperature"].tolist()
    assert start != end
    assert abs(end - float(torch.tensor(0.07).log())) > 0.05
    assert set(whole.history.as_tensors()) == {"loss", *(f"terms.{t}" for t in ("image", "text")), *(
        f"shared.{name}" for name in ("log_rates", "log_temperature")
    )}  # fmt: skip
    first = distillation(inputs, broken, loss=loss, checkpoint_every=2, **changes)
    steps = iter(range(100))
    first.should_stop = lambda: next(steps) == 3
    with pytest.raises(InterruptedRun):
        first.run()
    resumed = distillation(inputs, broken, loss=loss, checkpoint_every=2, **changes)
    resumed.run()
    assert torch.equal(resumed.pairs.shared["log_temperature"], whole.pairs.shared["log_temperature"])
    assert resumed.history == whole.history


def test_a_run_resumes_from_its_checkpoint_bit_identically(inputs: Inputs, tmp_path: Any) -> None:
    """With finite differences, epsilon is not chosen again, and the figures of the checks are kept."""
    changes = {"outer_steps": 7, "checkpoint_every": 3, "gradient": "finite_difference", "check_every": 2}
    whole, facts, resumed = stopped_run(inputs, tmp_path, 5, **changes)
    assert resumed.run() == facts
    assert [step for step, _ in facts.objective["difference_check"]["later"]] == [2, 4, 6]
    assert matching_of(resumed).epsilon_choice == matching_of(whole).epsilon_choice
    assert resumed.history == whole.history
    for ours, theirs in ((resumed.pairs, whole.pairs), (resumed.best, whole.best)):
        for name, value in (theirs.rows | theirs.shared).items():
            assert torch.equal((ours.rows | ours.shared)[name], value)
