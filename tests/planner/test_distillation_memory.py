"""Memory estimates of a distillation: with fixed rows, frozen towers, a model trained beside the pairs, or moments of real
pairs."""

import pytest

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.cost_model.memory_model import peak
from vldd_dist.models.dual_encoder import build
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.suggestions import suggest

MIB = 2**20
TEXT_DIM = 384


def test_graphs_of_a_frozen_tower_are_discarded_first() -> None:
    frozen = ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16", "distill.pairs=[300]"]
    kept, none = (load_experiment("jobs/presets/scenes.yaml", [*frozen, f"distill.tower_graph_mib={mib}"]) for mib in (2048, 0))
    (stage,) = [stage for stage in estimated_stages() if stage.kind == "distillation"]
    estimator = Estimator(TEXT_DIM)
    limit = peak(estimator.memory(none, stage))
    assert peak(estimator.memory(kept, stage)) > limit + 10 * MIB
    assert "distill.tower_graph_mib: 0 (" in suggest(kept, stage, limit, estimator)


@pytest.mark.parametrize("train", ["full", "head"])
def test_images_that_keep_their_start_take_less(train: str) -> None:
    """They need no pixel gradients, no moments and no copies of images; with a frozen tower, no graph either."""
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
    writes = [stage.traffic(one, estimator.trace, None).writes for one in (both, texts)]
    assert writes[1] < writes[0]


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
    assert found["real batch"] == 1500 * trace.pair_bytes
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
