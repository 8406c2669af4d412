"""Distribution matching compared with its definition, on one and on two ranks, and a resumed run."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.distributed.feature_runs import FIVE_PAIRS, compare, found_gradient, start, with_inputs
from tests.distributed.stopping import execute_until, rows_at_the_end
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.data.prepared.batches.real_batches import RealBatches
from vldd_dist.distillation.objectives import distribution_matching
from vldd_dist.distillation.objectives.distribution_matching import DistributionProblem
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.context import read_rows, read_tensors
from vldd_dist.seeding import derive_seed
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of
from vldd_dist.testing.processes.group import Group

STEP = 4
OVERRIDES = [
    *FIVE_PAIRS,
    "distill.objective={name: distribution_matching, last_epoch: 3, pairs_per_step: 3, real_batch_size: 7}",
    "distill.objective.sum_weight=0.6",
    "distill.objective.difference_weight=0.9",
    "distill.objective.width=0.7",
    "distill.outer_steps=12",
    "distill.validate_every=12",
    "distill.checkpoint_every=4",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return with_inputs(Store(str(tmp_path_factory.mktemp("prepared"))), OVERRIDES)


def discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """The root of mean k(a, a') + mean k(b, b') - 2 mean k(a, b), with angles computed by the arc tangent."""
    a, b = functional.normalize(a), functional.normalize(b)

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        # |p - q| = 2 sin(angle / 2). Where p equals q, the square and its gradient are 0.
        chord = (p[:, None] - q[None]).square().sum(dim=2)
        angle = 2 * torch.atan2((chord + 1e-30).sqrt(), (4 - chord).sqrt())
        return (-angle.square() / (2 * 0.7**2)).exp()

    return (kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()).sqrt()


def by_definition(store: Store) -> tuple[dict[str, float], list[int], dict[str, Tensor]]:
    context, inputs, pairs = start(SOLO, store.url, OVERRIDES)
    with inputs.settings.objective.open(inputs) as problem:
        assert isinstance(problem, DistributionProblem)
        rows, (expert, first, second) = problem.drawn(STEP).tolist(), problem.teacher(STEP)
    assert 1 <= min(first, second) < max(first, second) <= 3
    model = context.build_model(0).double().eval()
    trajectory = Trajectory(context.reader(f"expert_{expert:03d}"), TensorCache())
    for name, parameter in model.named_parameters():
        w0, w1, w2 = (trajectory.snapshot(epoch, name.partition("_")[0])[name].double().numpy() for epoch in (0, first, second))
        a, b = (w1 - w0).ravel(), (w2 - w0).ravel()
        c = max(float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b) or 1.0), 0.0)
        parameter.data = torch.from_numpy(w0 + c / (1 + c) * ((w1 + w2) / 2 - w0))
    batch = RealBatches(
        context.embeddings, context.dataset, 7, derive_seed(0, "distillation", 5, "real"), SOLO.rows_to_compute
    )[STEP]
    x, y = pairs.images[rows].double().requires_grad_(), pairs.texts[rows].double().requires_grad_()
    (v, t), (real_v, real_t) = (
        [functional.normalize(features) for features in model(images, texts)]
        for images, texts in ((x, y), (model.normalise(batch.images).double(), batch.texts.double()))
    )
    logits = v @ t.T / 0.07
    own = torch.arange(3)
    terms = {
        "pairs": (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2,
        "sums": 0.6 * discrepancy(v + t, real_v + real_t),
        "differences": 0.9 * discrepancy(v - t, real_v - real_t),
    }
    gradients = torch.autograd.grad(sum(terms.values()), [x, y])
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    scaled = [(gradient / max(norm, 1)).float() for gradient in gradients]
    return (
        {name: float(term.detach()) for name, term in terms.items()},
        rows,
        dict(zip(("images", "texts"), scaled, strict=True)),
    )


def test_the_gradient_is_that_of_the_definition(prepared: Store, group: Callable[[int], Group]) -> None:
    compare(by_definition(prepared), group, prepared.url, OVERRIDES, STEP)


def test_teachers_are_all_experts_between_any_two_of_their_epochs(prepared: Store) -> None:
    context, inputs, _ = start(SOLO, prepared.url, OVERRIDES)
    experts = range(len(context.roles("expert_")))
    with inputs.settings.objective.open(inputs) as problem:
        assert isinstance(problem, DistributionProblem)
        drawn = {problem.teacher(step) for step in range(200)}
    assert len(experts) > 1
    assert drawn == {(expert, *epochs) for expert in experts for epochs in itertools.permutations((1, 2, 3), 2)}


def test_the_gradient_of_all_pairs_is_clipped_to_its_norm(prepared: Store) -> None:
    unclipped = found_gradient(SOLO, prepared.url, [*OVERRIDES, "distill.objective.clip=null"], STEP).row_gradients
    norm = float(torch.cat([gradient.flatten() for gradient in unclipped.values()]).norm())
    clipped = found_gradient(SOLO, prepared.url, [*OVERRIDES, f"distill.objective.clip={norm / 4}"], STEP).row_gradients
    for name, gradient in unclipped.items():
        torch.testing.assert_close(clipped[name], gradient / 4, rtol=1e-4, atol=0)


def test_the_states_of_a_teacher_are_merged_on_the_device_of_the_model(
    prepared: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not on one core of the CPU, for which the GPU would wait at each step."""
    _, inputs, _ = start(SOLO, prepared.url, OVERRIDES)
    merged: list[list[str]] = []

    def recorded(*states: Tensor) -> Tensor:
        merged.append([state.device.type for state in states])
        return states[0]

    monkeypatch.setattr(distribution_matching, "merged_teacher", recorded)
    with inputs.settings.objective.open(inputs) as problem:
        assert isinstance(problem, DistributionProblem)
        problem.model.to("meta")
        # Its parameters are still the model's on the CPU.
        monkeypatch.setattr(problem.view, "write", list)
        problem.prepare(STEP)
    assert merged == [["meta"] * 3] * len(problem.view.parameters)


def test_a_resumed_run_is_bit_identical_and_changes_the_drawn_pairs(prepared: Store, tmp_path: Path) -> None:
    (unit,) = units_of(experiment(*OVERRIDES), "distillation")
    readers, ends = [], []
    for name, stops in (("straight", [None]), ("broken", [8, None])):
        shutil.copytree(prepared.root, tmp_path / name)
        store = Store(str(tmp_path / name))
        written = [execute_until(SOLO, store.url, unit, stop_at) for stop_at in stops]
        ends.append(rows_at_the_end(written[-1]))
        readers.append(UnitReader(store, "distillation", unit.id))
    wanted, resumed = (read_tensors(reader, "curves.safetensors") for reader in readers)
    assert set(wanted) == {"loss", "terms.pairs", "terms.sums", "terms.differences"}
    assert all(torch.equal(resumed[name], values) for name, values in wanted.items())
    start = read_rows(readers[0], "start")
    for name, rows in ends[0].items():
        assert torch.equal(ends[1][name], rows), name
        assert (rows - start[name]).flatten(1).any(dim=1).all(), "twelve steps draw every one of five pairs"


def test_unsupported_settings_are_refused_with_the_description() -> None:
    with pytest.raises(ConfigError, match=r"last_epoch \(4\) is more than experts\.epochs \(3\): lower it, or train longer"):
        experiment(*OVERRIDES, "distill.objective.last_epoch=4")
    with pytest.raises(ConfigError, match=r"distill\.workers \(4\) is more than distill\.objective\.pairs_per_step \(3\)"):
        experiment(*OVERRIDES, "distill.workers=4")
