"""Covariance matching compared with its definition, on one and on two ranks, and a whole distillation without experts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.distributed.stopping import execute_until, rows_at_the_end
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.flop_trace import FlopCount, FlopTrace
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.data.prepared.batches.real_batches import RealBatches
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.objectives.outer_problem import OuterGradient
from vldd_dist.errors import ConfigError
from vldd_dist.models.heads import build_head
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.pipeline.context import StageContext, read_rows, read_tensors
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.seeding import derive_seed
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, experiment, run, units_of, workspace
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import relative

# Five pairs, so that the ranks' rows differ in number.
OVERRIDES = [
    "distill.objective={name: covariance_matching, real_batch_size: 7, rho: 1.5, mean_weight: 0.3, reset_every: 5}",
    "distill.objective.lr_encoder=0.02",
    "distill.objective.lr_heads=0.2",
    "distill.pairs=[5]",
    "distill.outer_steps=12",
    "distill.validate_every=12",
    "distill.checkpoint_every=4",
    "model.image.head.kind=linear",
    "model.joint_dim=16",
]
STEP = 8
FIXED = "distill.objective.train_model=false"
KEPT = "distill.lr_images=0"


def described(*overrides: str) -> Experiment:
    return experiment(*OVERRIDES, *overrides)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The data set and the embeddings of its captions, without experts."""
    store = Store(str(tmp_path_factory.mktemp("prepared")))
    run(store, [unit for unit in Graph(described()).units() if unit.kind in DATA_KINDS])
    return store


def context_of(store: Store, ranks: Ranks) -> StageContext:
    (unit,) = units_of(described(), "distillation")
    context = workspace(store, unit)
    return StageContext(context.order, store, context.writer, context.report, ranks)


def found_gradient(ranks: Ranks, url: str, *overrides: str) -> OuterGradient:
    """This rank's part of the gradient."""
    torch.set_num_threads(1)
    context = context_of(Store(url), ranks)
    inputs = distillation_context(context, described(*overrides).distill.distillation_settings(), context.build_model(0))
    pairs, _ = starting_pairs(inputs)
    with inputs.settings.objective.open(inputs) as problem:
        return problem.gradient(STEP, pairs)


def by_definition(store: Store, trains: bool) -> tuple[list[float], Tensor, Tensor]:
    """The terms of the loss, and the gradient of their sum with respect to images and texts, with torch's own covariance."""
    context = context_of(store, SOLO)
    model = context.build_model(0)
    settings = described().distill.distillation_settings()
    pairs, _ = starting_pairs(distillation_context(context, settings, model))
    model.eval()
    batches = RealBatches(
        context.embeddings, context.dataset, 7, derive_seed(0, "distillation", 5, "real"), SOLO.rows_to_compute
    )
    if trains:
        # The student is reset to its start before step 5; then it takes a step on each batch up to this one.
        start_seed = derive_seed(derive_seed(0, "distillation", 5, "heads"), 5)
        # Its backbone is trained from random weights.
        image, backbone_seed = described().model.image, derive_seed(start_seed, "backbone")
        model.image_backbone = create_backbone(image.model, {}, pretrained=False, seed=backbone_seed).eval()
        torch.manual_seed(start_seed)
        model.image_head = build_head(described().model.image.head, model.image_backbone.num_features, 16)
        model.text_head = build_head(described().model.text.head, model.text_dim, 16)
        for batch in map(batches.__getitem__, range(5, STEP)):
            features = model(model.normalise(batch.images), batch.texts)
            logits = functional.normalize(features[0]) @ functional.normalize(features[1]).T / 0.07
            losses = [functional.cross_entropy(one, torch.arange(7)) for one in (logits, logits.T)]
            moved = list(model.parameters())
            for parameter, gradient in zip(moved, torch.autograd.grad(sum(losses) / 2, moved), strict=True):
                is_head = any(parameter is one for head in (model.image_head, model.text_head) for one in head.parameters())
                parameter.data -= (0.2 if is_head else 0.02) * gradient
    batch = batches[STEP]
    images, texts = pairs.images.requires_grad_(), pairs.texts.requires_grad_()
    real = model.image_backbone(model.normalise(batch.images)), batch.texts
    ours = model.image_backbone(images), texts
    width = ours[0].shape[1]
    covariances = [torch.cov(torch.cat(both, dim=1).T)[:width, width:] for both in (real, ours)]
    heads = model.image_head, model.text_head
    apart = [head(a).mean(0) - head(b).mean(0) for head, a, b in zip(heads, real, ours, strict=True)]
    terms = [(1.5 * covariances[0] - covariances[1]).square().sum(), 0.3 * sum(d.square().sum() for d in apart)]
    of_images, of_texts = torch.autograd.grad(terms[0] + terms[1], [images, texts])
    return [term.item() for term in terms], of_images, of_texts


@pytest.mark.parametrize("changes", [[], [FIXED], [KEPT], [KEPT, FIXED]])
def test_an_outer_step_has_the_operations_of_the_plan(changes: list[str], prepared: Store) -> None:
    """Operations of heads and covariances are not compared."""
    context, settings = context_of(prepared, SOLO), described(*changes).distill.distillation_settings()
    inputs = distillation_context(context, settings, context.build_model(0))
    pairs, _ = starting_pairs(inputs)
    pairs = replace(pairs, fixed=settings.fixed())
    passes = FlopTrace(MemoryTrace(described().model, pairs.texts.shape[1], 32))
    with settings.objective.open(inputs) as problem:
        problem.gradient(STEP - 1, pairs)
        with FlopCount() as counted:
            problem.gradient(STEP, pairs)
    assert counted.total == pytest.approx(settings.objective.costs().step_flops(passes, settings, 5), rel=0.05)


@pytest.mark.parametrize("trains", [False, True])
def test_the_gradient_is_that_of_the_definition_on_one_and_two_ranks(
    trains: bool, prepared: Store, group: Callable[[int], Group]
) -> None:
    terms, of_images, of_texts = by_definition(prepared, trains)
    assert min(terms) > 0
    overrides = [] if trains else [FIXED]
    for parts in ([found_gradient(SOLO, prepared.url, *overrides)], group(2).run(found_gradient, prepared.url, *overrides)):
        for part in parts:
            assert list(part.terms) == ["covariance", "means"]
            assert list(part.terms.values()) == pytest.approx(terms, rel=1e-4)
            assert part.rows.tolist() == list(range(len(part.rows)))
            assert part.shared_gradients == {}
        images, texts = (torch.cat([part.row_gradients[name] for part in parts]) for name in ("images", "texts"))
        assert relative(images, of_images) < 1e-4
        assert relative(texts, of_texts) < 1e-4


@pytest.mark.parametrize("trains", [[], [FIXED]])
@pytest.mark.parametrize(("fixed", "learned"), [("images", "texts"), ("texts", "images")])
def test_what_is_fixed_has_no_gradient_and_does_not_change_the_others(
    fixed: str, learned: str, trains: list[str], prepared: Store
) -> None:
    both, one = (found_gradient(SOLO, prepared.url, *rates, *trains) for rates in ([], [f"distill.lr_{fixed}=0"]))
    assert set(one.row_gradients) == {learned}
    assert relative(one.row_gradients[learned], both.row_gradients[learned]) < 1e-6
    assert one.terms == pytest.approx(both.terms, rel=1e-6)


def distil(ranks: Ranks, url: str, overrides: list[str], stop_at: int | None = None) -> dict[str, Tensor]:
    """A whole distillation; returns this rank's rows at the end."""
    (unit,) = units_of(described(*overrides), "distillation")
    return rows_at_the_end(execute_until(ranks, url, unit, stop_at))


def test_a_distillation_without_experts_lowers_its_loss(
    prepared: Store, copy: Callable[[str], Store], group: Callable[[int], Group], tmp_path: Path
) -> None:
    """A resumed run gives bit-identical results, and a run on two ranks the same pairs up to rounding."""
    (unit,) = units_of(described(), "distillation")
    assert set(unit.inputs) == {"dataset", "embeddings"}
    straight, broken, together = copy("straight"), copy("broken"), copy("together")
    wanted = distil(SOLO, straight.url, [])
    distil(SOLO, broken.url, [], 8)
    resumed = distil(SOLO, broken.url, [])
    parts = group(2).run(distil, together.url, ["distill.workers=2"])
    readers = [UnitReader(store, "distillation", unit.id) for store in (straight, together)]
    start, curves, of_ranks = read_rows(readers[0], "start"), *(read_tensors(one, "curves.safetensors") for one in readers)
    assert float(curves["loss"][-4:].mean()) < 0.8 * float(curves["loss"][:4].mean())
    assert set(curves) == {"loss", "terms.covariance", "terms.means"}
    torch.testing.assert_close(of_ranks["loss"], curves["loss"], rtol=1e-3, atol=1e-3)
    for name, rows in wanted.items():
        moves = rows - start[name]
        assert moves.flatten(1).norm(dim=1).min() > 1e-3, name
        assert torch.equal(resumed[name], rows), name
        assert relative(torch.cat([part[name] for part in parts]) - start[name], moves) < 1e-3, name


def test_unsupported_settings_are_refused_with_the_description() -> None:
    with pytest.raises(ConfigError, match=r"log_temperature cannot be learned by .* without a student"):
        described("model.loss.learn_temperature=true")
    with pytest.raises(ConfigError, match=r"distill\.sharding shards a student, and .*covariance_matching has none: set none"):
        described("distill.sharding=zero3")
