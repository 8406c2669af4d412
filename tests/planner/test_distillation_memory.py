"""Memory estimates of a distillation: with fixed rows, frozen backbones, a model trained beside the pairs, or moments of real
pairs."""

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.io_model import data_size
from vldd_dist.cost_model.memory_model import Terms, peak
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.cost_model.work_model import distillation_flops
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.objectives.bilevel import Bilevel
from vldd_dist.distillation.objectives.outer_problem import OuterProblem
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.distillation.unroll import Gradient, Sgd, Unroll
from vldd_dist.distillation.unroll.finite_difference import FINITE_DIFFERENCE
from vldd_dist.distillation.unroll.protocol import leaves
from vldd_dist.errors import ConfigError
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.suggestions import suggest
from vldd_dist.plugins import GRADIENTS, OBJECTIVES
from vldd_dist.testing.allocated import allocated_peak

MIB = 2**20
TEXT_DIM = 384


def test_graphs_of_a_frozen_backbone_are_discarded_first() -> None:
    frozen = ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16", "distill.pairs=[300]"]
    kept, none = (load_experiment("jobs/presets/scenes.yaml", [*frozen, f"distill.tower_graph_mib={mib}"]) for mib in (2048, 0))
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)
    limit = peak(estimator.memory(none, stage))
    assert peak(estimator.memory(kept, stage)) > limit + 10 * MIB
    assert "distill.tower_graph_mib: 0 (" in suggest(kept, stage, limit, estimator)


@pytest.mark.parametrize("train", ["full", "head"])
def test_images_that_keep_their_start_take_less(train: str) -> None:
    """They need no pixel gradients, no moments and no copies of images; with a frozen backbone, no graph either."""
    towers = {"full": [], "head": ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16"]}[train]
    both, texts = (
        load_experiment(
            "jobs/presets/scenes.yaml",
            [*towers, "distill.pairs=[2000]", "distill.batch_size=64", "distill.ema=0", *rates],
        )
        for rates in ([], ["distill.lr_images=0"])
    )
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)
    learned, fixed = (estimator.memory(one, stage) for one in (both, texts))
    assert peak(fixed) < peak(learned)
    pixels, rest = 2000 * 3 * 32 * 32 * 4, 2000 * TEXT_DIM * 4
    assert learned["pairs"] == 5 * (pixels + rest)
    assert pixels + 5 * rest <= fixed["pairs"] < 1.5 * (pixels + 5 * rest)
    writes = [stage.traffic(one, estimator.trace, None, None).writes for one in (both, texts)]
    assert writes[1] < writes[0]


class LossOfSteps(UnrolledObjective):
    """An unrolled objective beside those of the package, such as a plug-in has."""

    name: str = "loss_of_steps"

    def open(self, context: DistillationContext) -> AbstractContextManager[OuterProblem]:
        raise NotImplementedError

    def allows_finite_differences(self) -> bool:
        return True


def test_an_unrolled_objective_of_a_plug_in_is_planned_with_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what the same unroll takes in trajectory matching, without the snapshots of experts."""
    monkeypatch.setitem(OBJECTIVES.entries, "loss_of_steps", f"{__name__}:LossOfSteps")
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)

    def described(name: str, gradient: str) -> Experiment:
        objective = f"distill.objective={{name: {name}, gradient: {gradient}, inner_steps: 8}}"
        # With these, no suggestion but that of another gradient needs a trace.
        overrides = [objective, "distill.tower_graph_mib=0", "model.image.grad_checkpointing=true"]
        return load_experiment("jobs/presets/scenes.yaml", overrides)

    known, found = (described(name, "finite_difference") for name in ("trajectory_matching", "loss_of_steps"))
    memory = estimator.memory(found, stage)
    assert memory == estimator.memory(known, stage) | {"expert": 0}
    trace, data = estimator.trace(known.model, known.data.image_size), data_size(known, None)
    assert data is not None
    assert distillation_flops(found, trace, data, 8, 0) == distillation_flops(known, trace, data, 8, 0)
    full = described("loss_of_steps", "full")
    assert "distill.objective.gradient: finite_difference (" in suggest(full, stage, peak(memory), estimator)


@pytest.mark.parametrize(
    ("gradient", "change", "sentence"),
    [
        ("finite_difference", "distill.precision=bf16", "the rounding error of bf16 is larger"),
        ("full", "distill.workers=2", "full keeps one graph in one process"),
    ],
)
def test_conflicts_of_a_gradient_are_those_of_every_unrolled_objective(
    gradient: str, change: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES.entries, "loss_of_steps", f"{__name__}:LossOfSteps")
    with pytest.raises(ConfigError, match=sentence):
        load_experiment(
            "jobs/presets/scenes.yaml", [f"distill.objective={{name: loss_of_steps, gradient: {gradient}}}", change]
        )


ONE_GRAPH = Gradient(None)
DIFFERENCES = Gradient(FINITE_DIFFERENCE.derivatives, first_order_only=True)


@pytest.mark.parametrize(("own", "like"), [("ONE_GRAPH", "full"), ("DIFFERENCES", "finite_difference")])
def test_a_gradient_of_a_plug_in_is_planned_by_what_it_does(own: str, like: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRADIENTS.entries, "own", f"{__name__}:{own}")
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)
    known, found = (
        estimator.memory(load_experiment("jobs/presets/scenes.yaml", [f"distill.objective.gradient={name}"]), stage)
        for name in (like, "own")
    )
    assert found == known


def test_a_model_trained_beside_the_pairs_takes_its_start_and_its_step() -> None:
    trained, given = (
        load_experiment(
            "jobs/presets/scenes.yaml",
            ["distill.objective={name: covariance_matching, real_batch_size: 1500}", f"distill.objective.train_model={trains}"],
        )
        for trains in ("true", "false")
    )
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)
    trace, found = estimator.trace(trained.model, 32), estimator.memory(trained, stage)
    assert found["snapshots"] == sum(trace.trainable_bytes.values())
    assert found["real batch"] == 1500 * trace.real_bytes
    assert found["activations"] == trace.first_order(1500, training=False, of_batch=False, keep=True)
    assert peak(estimator.memory(given, stage)) < peak(found) - found["snapshots"]


def test_moments_of_all_real_pairs_are_planned() -> None:
    frozen = ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16", "distill.pairs=[1000]"]
    whitened = load_experiment("jobs/presets/scenes.yaml", [*frozen, "distill.objective={name: whitened_matching}"])
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    features = build(
        whitened.model.model_copy(update={"image": whitened.model.image.model_copy(update={"weights": "random"})}),
        TEXT_DIM,
        None,
        0,
    )
    width = features.image_backbone.num_features
    expected = 4 * (width**2 + TEXT_DIM**2 + 5 * width * TEXT_DIM)
    assert Estimator(TEXT_DIM).memory(whitened, stage)["real moments"] == expected


def bilevel(train: str, pairs: int, real: int, skipped: int, **distill: Any) -> tuple[Experiment, Terms]:
    """A bilevel distillation of images of 64 pixels in three inner steps, and what it takes by the plan."""
    linear = {"head": {"kind": "linear"}}
    image = {"model": "test_vit", "model_args": {"img_size": 64}, "weights": "random", "train": "full"}
    model = {"image": image, "text": {"head": {"kind": "projection", "dropout": 0}}}
    if train == "head":
        model |= {"image": image | linear | {"train": "head", "weights": "none.safetensors"}, "joint_dim": 64}
    objective = {"name": "bilevel", "inner_steps": 3, "skipped_steps": skipped, "real_batch_size": real, "teacher_weight": 0}
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "data": {"source": "scenes", "image_size": 64},
            "model": model,
            "evaluation": {"batch_size": 64, "encode_batch": 8},
            "distill": {"pairs": [pairs], "objective": objective | distill.pop("objective", {}), **distill},
        }
    )
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    return experiment, Estimator(TEXT_DIM).memory(experiment, stage)


@pytest.mark.parametrize(
    ("train", "pairs", "real", "skipped", "gradient"),
    [
        ("full", 64, 64, 0, "exact"),
        ("full", 64, 64, 10, "exact"),
        # Of few pairs, most are vectors and snapshots of parameters.
        ("full", 4, 4, 2, "exact"),
        ("full", 16, 64, 0, "full"),
        ("head", 16, 1024, 6, "exact"),
    ],
)
def test_a_bilevel_step_takes_what_the_estimate_says(train: str, pairs: int, real: int, skipped: int, gradient: str) -> None:
    """Batches, a start and noisy real pairs, through the unroll and its outer loss."""
    experiment, terms = bilevel(train, pairs, real, skipped, objective={"gradient": gradient})
    # The pass of the pairs through a frozen backbone comes before the step that is measured.
    assert (terms["kept graphs"] > 0) == (train == "head")
    held = {name: size for name, size in terms.items() if name not in ("student", "frozen backbone", "pairs", "kept graphs")}
    image = experiment.model.image.model_copy(update={"weights": "random"})
    unroller = LocalUnroller(
        build(experiment.model.model_copy(update={"image": image}), TEXT_DIM, None, 0),
        InfoNCE(),
        experiment.distill.objective,
        None,
    )
    fresh_start = unroller.fresh_starts()
    _, *shape = model_inputs(unroller.model, torch.randn(1, 3, 64, 64)).shape

    def drawn(rows: int) -> list[Tensor]:
        return [torch.randn(rows, *shape), torch.randn(rows, TEXT_DIM)]

    def step() -> None:
        batches = [drawn(pairs) for _ in range(skipped + 3)]
        read = drawn(real)
        outer = unroller.loss_of_rows(RealRows(*[rows.clone() for rows in read], real), 1, InfoNCE())
        rates, sgd = torch.tensor([0.01, 0.01]), Sgd(0.9, 5e-4, skipped)
        unroll = Unroll(fresh_start(0), rates, batches, outer, unroller.towers, sgd=sgd)
        unroller.gradient(StudentUnroll(unroll, 0))

    step()
    measured = allocated_peak(step)
    assert measured / 1.2 < peak(held) < measured * 1.2


def test_an_outer_loss_on_real_pairs_keeps_fused_attention() -> None:
    """It needs no second derivative, unlike the steps. Unfused, the scores of 197 tokens would take two fifths more."""
    image = ImageTowerSettings(model="test_vit", model_args={"img_size": 224}, weights="random")
    settings, rows = ModelSettings(image=image, text=TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))), 16
    planned = MemoryTrace(settings, TEXT_DIM, 224).first_order(rows, training=True, of_batch=False, keep=True)
    unroller = LocalUnroller(build(settings, TEXT_DIM, None, 0), InfoNCE(), Bilevel(teacher_weight=0), None)
    read = RealRows(torch.randn(rows, 3, 224, 224), torch.randn(rows, TEXT_DIM), rows)
    outer, theta = unroller.loss_of_rows(read, 0, InfoNCE()), leaves(unroller.student.view.read())
    measured = allocated_peak(lambda: torch.autograd.grad(outer(theta).sum(), theta))
    assert measured / 1.05 < planned < measured * 1.05


def test_ranks_share_the_real_pairs_of_an_outer_loss() -> None:
    """A trained backbone sees each of them once, and a rank keeps no graph of a step until the way back."""
    (_, alone), (_, shared) = (bilevel("full", 4, 256, 0, workers=workers) for workers in (1, 4))
    assert alone["outer loss"] > 3 * shared["outer loss"]
    assert shared["real batch"] == alone["real batch"] // 4


def test_a_teacher_and_its_real_pairs_stay_while_pairs_are_validated() -> None:
    experiment, terms = bilevel("full", 64, 2, 0, batch_size=2, objective={"teacher_weight": 0.5})
    assert "validation: student" in terms
    assert terms["expert"] == experiment.experts.count * terms["validation: momentum"] > 0
    assert terms["real batch"] == 2 * 2 * 4 * (3 * 64 * 64 + TEXT_DIM)


def test_validation_of_a_later_phase_holds_its_pairs_joined_to_those_before() -> None:
    settings = ["distill.pairs=[64]", "distill.batch_size=2", "evaluation.batch_size=64"]
    phases = "distill.phases=[{pairs: 32}, {}]"
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)
    whole, joined = (
        estimator.memory(load_experiment("jobs/presets/scenes.yaml", given), stage) for given in (settings, [*settings, phases])
    )
    assert "validation: student" in whole
    assert "validation: joined pairs" not in whole
    assert joined["validation: joined pairs"] == 2 * joined["earlier phases"] > 0


def test_snapshots_that_are_merged_on_the_host_take_no_device_memory() -> None:
    matching = load_experiment("jobs/presets/scenes.yaml", ["distill.objective={name: distribution_matching}"])
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    assert Estimator(TEXT_DIM).memory(matching, stage)["snapshots"] == 0


@pytest.mark.parametrize("moves", [True, False])
def test_a_tower_that_follows_the_model_takes_what_the_estimate_says(moves: bool) -> None:
    """Its batch norms keep what a frozen backbone has folded, and it holds no weights of its own."""
    described = Experiment.model_validate(
        {
            "name": "x",
            "data": {"source": "scenes", "image_size": 64},
            "model": {"image": {"model": "mobilenetv2_100", "weights": "random"}},
            "distill": {
                "pairs": [32],
                "objective": {"name": "covariance_matching", "real_batch_size": 2, "train_model": moves},
            },
            "evaluation": {"batch_size": 2, "encode_batch": 1},
        }
    )
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)
    terms, trace = estimator.memory(described, stage), estimator.trace(described.model, 64)
    frozen = FrozenBackbone(build(described.model, TEXT_DIM, None, 0).image_backbone, moves=moves)
    assert terms["frozen backbone"] == frozen.own_bytes
    images = torch.randn(32, 3, 64, 64)
    frozen.features(images)

    def there_and_back() -> None:
        frozen.features_with_graph(images, 0).pixel_gradients(torch.ones(32, frozen.backbone.num_features))

    measured = allocated_peak(there_and_back)
    assert measured > 30 * MIB
    pixels = 32 * 3 * 64**2 * 4
    assert measured / 1.2 < terms["activations"] + pixels < measured * 1.2
    assert trace.backbone_pass(32, moves=True).graph > 1.4 * trace.backbone_pass(32).graph


def test_features_of_fixed_images_are_computed_anew_for_each_teacher() -> None:
    """And once for a backbone that is the same in all teachers."""

    def operations(train: str) -> float:
        settings = ["distill.objective={name: distribution_matching}", "distill.lr_images=0", f"model.image.train={train}"]
        described = load_experiment(
            "jobs/presets/scenes.yaml", [*settings, "model.image.head.kind=linear", "model.joint_dim=16"]
        )
        flops = FlopTrace(Estimator(TEXT_DIM).trace(described.model, 32))
        objective = described.distill.objective
        found: float = objective.costs().step_flops(flops, described.distill, 100) / flops.encoding
        return found if flops.has_features else found - objective.costs().real_rows()

    assert operations("full") == pytest.approx(64)
    assert operations("head") == pytest.approx(0)
