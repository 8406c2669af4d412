"""The bilevel objective compared with a student trained by an explicit loop, and a whole distillation without experts."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.distributed.stopping import execute_until, rows_at_the_end
from tests.pipeline.bilevel_by_hand import RATES, by_hand, context_of, described, found_gradient
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.cost_model.flop_trace import FlopCount, FlopTrace
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.cost_model.work_model import distillation_flops
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.inner_batches import draw_batches
from vldd_dist.distillation.objectives import bilevel
from vldd_dist.distillation.objectives.bilevel import with_noise
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.real_data.teacher import Teacher, soft_cross_entropy
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.pipeline.context import read_rows
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.seeding import derive_seed, numpy_generator
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, run, units_of
from vldd_dist.testing.unroll_cases import relative


@pytest.mark.parametrize("train", ["head", "full"])
@pytest.mark.parametrize("step", [2, 3])
def test_the_gradient_is_that_of_training_by_hand(step: int, train: str, prepared: Store) -> None:
    tree = described(f", noise_scale: 0, inner_lr_image: {RATES[0]}, inner_lr_text: {RATES[1]}", train)
    found, (loss, wanted) = found_gradient(prepared, tree, step), by_hand(prepared, tree, step)
    assert found.terms["real_pairs"] == pytest.approx(loss.item(), rel=1e-4)
    assert found.rows.tolist() == list(range(5))
    gradients = found.row_gradients | found.shared_gradients
    for name, tensor in wanted.items():
        assert relative(gradients[name], tensor) < (2e-3 if train == "full" else 1e-4), name


def test_only_pairs_of_differentiated_steps_move(prepared: Store) -> None:
    """Nine pairs, of which two are in each step; only the last step is differentiated."""
    settings = "{name: bilevel, real_batch_size: 7, inner_steps: 1, skipped_steps: 4, teacher_weight: 0}"
    tree = described("", "head", "distill.pairs=[9]", "distill.batch_size=2", f"distill.objective={settings}")
    for step in itertools.count(1, 2):
        generator = numpy_generator(derive_seed(0, "distillation", 9), "bilevel", step)
        if (skip := int(generator.integers(5))) > 1:
            break
    found = found_gradient(prepared, tree, step)
    assert found.rows.tolist() == draw_batches(generator, 9, 2, skip + 1)[-1].tolist()
    assert len(found.row_gradients["images"]) == 2
    assert all(gradient.flatten(1).any(dim=1).all() for gradient in found.row_gradients.values())


def test_steps_before_the_differentiated_ones_are_taken_at_every_other_outer_step(prepared: Store) -> None:
    """The even outer steps are the same with and without them, the odd ones are not."""
    settings = "{name: bilevel, real_batch_size: 7, inner_steps: 3, teacher_weight: 0, skipped_steps: %d}"
    trees = [described("", "head", f"distill.objective={settings % most}") for most in (4, 0)]
    for step in (2, 3):
        one, other = (found_gradient(prepared, tree, step).row_gradients["texts"] for tree in trees)
        assert torch.equal(one, other) is (step == 2)


def test_a_teacher_is_the_mean_of_the_experts_cosines(prepared: Store) -> None:
    """The outer loss with a teacher lies on the line between that of the pairs and the cross-entropy against the teacher's."""
    trees = [described(f", noise_scale: 0, teacher_weight: {share}") for share in (0, 0.25, 1)]
    run(prepared, [unit for unit in Graph(trees[2]).units() if unit.kind == "expert"])
    alone, mixed, taught = (found_gradient(prepared, tree, 3) for tree in trees)
    assert mixed.terms["real_pairs"] == pytest.approx(
        0.75 * alone.terms["real_pairs"] + 0.25 * taught.terms["real_pairs"], rel=1e-5
    )
    for name, tensor in mixed.row_gradients.items():
        assert relative(tensor, 0.75 * alone.row_gradients[name] + 0.25 * taught.row_gradients[name]) < 1e-4
    context = context_of(prepared, trees[2])
    model, settings = context.build_model(0), trees[2].distill.objective
    unroller = LocalUnroller(model, trees[2].model.loss, settings, None)
    teacher = Teacher(
        unroller, distillation_context(context, trees[2].distill.distillation_settings(), model).open_experts(None)
    )
    generator = torch.Generator().manual_seed(0)
    inputs, texts = (
        torch.randn(4, width, generator=generator) for width in (model.image_backbone.num_features, model.text_dim)
    )
    wanted = []
    for role in context.roles("expert_"):
        trajectory = Trajectory(context.reader(role), TensorCache())
        last = {**trajectory.snapshot(trajectory.epochs[-1], "image"), **trajectory.snapshot(trajectory.epochs[-1], "text")}
        features = torch.func.functional_call(model.eval(), last, (inputs, texts))
        wanted.append(functional.cosine_similarity(features[0][:, None], features[1][None], dim=2))
    assert len(wanted) == trees[2].experts.count > 1
    torch.testing.assert_close(
        teacher.similarities(RealRows(inputs, texts, 4)), torch.stack(wanted).mean(dim=0), rtol=1e-4, atol=1e-5
    )


def test_the_soft_cross_entropy_is_that_of_its_definition() -> None:
    logits, targets = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = 0.0
    for a, b in ((logits, targets), (logits.T, targets.T)):
        for row, target in zip(a, b, strict=True):
            p, q = row.exp() / row.exp().sum(), target.exp() / target.exp().sum()
            wanted -= float((q * p.log()).sum()) / 6
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(wanted)


def test_noise_has_the_size_asked_for_and_is_drawn_anew_each_step() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, texts = (torch.randn(4000, 8, generator=generator) * size for size in (3, 5))
    rows = RealRows(inputs, texts, 4000)
    noisy = [with_noise(rows, 0.5, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    (of_images, of_texts), (other, _) = ((one.inputs - inputs, one.texts - texts) for one in noisy)
    assert float(of_images.std()) == pytest.approx(1.5, rel=0.02)
    assert float(of_texts.std()) == pytest.approx(2.5, rel=0.02)
    assert not torch.equal(of_images, other)
    assert float(functional.cosine_similarity(of_images.flatten(), of_texts.flatten(), dim=0)) == pytest.approx(0, abs=0.02)
    assert with_noise(rows, 0.0, torch.Generator()) is rows


def test_the_real_pairs_of_each_step_get_noise_of_their_own(prepared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[float, int]] = []

    def recorded(rows: RealRows, scale: float, generator: torch.Generator, ranks: Ranks) -> RealRows:
        calls.append((scale, generator.initial_seed()))
        return with_noise(rows, scale, generator, ranks)

    monkeypatch.setattr(bilevel, "with_noise", recorded)
    loss = {
        (scale, step): found_gradient(prepared, described(f", noise_scale: {scale}"), step).terms["real_pairs"]
        for scale in (0, 0.5)
        for step in (2, 3)
    }
    seeds = {step: derive_seed(derive_seed(0, "distillation", 5), "noise", step) for step in (2, 3)}
    assert calls == [(scale, seeds[step]) for scale, step in loss]
    assert all(abs(loss[0.5, step] - loss[0, step]) > 1e-3 for step in (2, 3))


def test_logits_and_soft_targets_have_the_temperature_of_the_loss(prepared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    of_student, given = [], []
    of_teacher = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))

    class Fixed:
        def __init__(self, *arguments: object) -> None:
            """Needs no experts."""

        def similarities(self, rows: RealRows) -> Tensor:
            return of_teacher

    def recorded_cosines(images: Tensor, texts: Tensor) -> Tensor:
        of_student.append(cosines(images, texts))
        return of_student[-1]

    def recorded_loss(logits: Tensor, targets: Tensor) -> Tensor:
        given.append((logits, targets))
        return soft_cross_entropy(logits, targets)

    for name, value in (("Teacher", Fixed), ("cosines", recorded_cosines), ("soft_cross_entropy", recorded_loss)):
        monkeypatch.setattr(bilevel, name, value)
    found_gradient(prepared, described(", teacher_weight: 0.5"), 3)
    assert given
    for (logits, targets), similarities in zip(given, of_student, strict=True):
        torch.testing.assert_close(logits, similarities / 0.07)
        torch.testing.assert_close(targets, of_teacher / 0.07)


def test_what_is_fixed_has_no_gradient_and_does_not_change_the_other(prepared: Store) -> None:
    both = found_gradient(prepared, described(""), 3)
    for fixed, learned in (("images", "texts"), ("texts", "images")):
        one = found_gradient(prepared, described("", "head", f"distill.lr_{fixed}=0"), 3)
        assert set(one.row_gradients) == {learned}
        assert relative(one.row_gradients[learned], both.row_gradients[learned]) < 1e-6


def test_a_distillation_needs_no_expert_and_moves_all_it_learns(prepared: Store) -> None:
    tree = described("")
    (unit,) = units_of(tree, "distillation")
    assert not any(role.startswith("expert") for role in unit.inputs)
    rows = rows_at_the_end(execute_until(SOLO, prepared.url, unit, None))
    reader = UnitReader(prepared, "distillation", unit.id)
    start = read_rows(reader, "start")
    assert len(reader.manifest.facts["validation"]) == 3
    assert set(rows) == {"images", "texts"}
    assert all((rows[name] - start[name]).flatten(1).any(dim=1).all() for name in rows)


@pytest.mark.parametrize("train", ["full", "head"])
def test_an_outer_step_has_the_operations_of_the_plan(train: str, prepared: Store) -> None:
    """Of a student that skips two steps, and of two experts; of ten of twenty pairs."""
    few = [train, "distill.pairs=[20]", "distill.batch_size=2", "experts.count=2"]
    tree = described(", teacher_weight: 0.5", *few)
    # Two steps on average.
    settings = described(", teacher_weight: 0.5", *few, "distill.objective.skipped_steps=8").distill.distillation_settings()
    run(prepared, [unit for unit in Graph(tree).units() if unit.kind in (*DATA_KINDS, "expert")])
    context = context_of(prepared, tree)
    inputs = distillation_context(context, tree.distill.distillation_settings(), context.build_model(0))
    pairs, _ = starting_pairs(inputs)
    seed = derive_seed(0, "distillation", 20)
    step = next(step for step in itertools.count(1, 2) if numpy_generator(seed, "bilevel", step).integers(5) == 2)
    with inputs.settings.objective.open(inputs) as problem:
        problem.gradient(0, pairs)
        with FlopCount() as counted:
            problem.gradient(step, pairs)
    trace, objective = MemoryTrace(tree.model, pairs.texts.shape[1], 32), settings.objective
    passes, data = FlopTrace(trace), data_size(tree, None)
    teacher = objective.costs().teacher_flops(passes, 2)
    assert teacher > 0
    assert counted.total == pytest.approx(objective.costs().step_flops(passes, settings, 20) + teacher, rel=0.05)
    assert data is not None
    alone = described(", teacher_weight: 0", *few)
    runs = [distillation_flops(one, trace, data, 20, 0) for one in (tree, alone)]
    assert None not in runs
    assert runs[0] - runs[1] == pytest.approx(tree.distill.outer_steps * teacher)
