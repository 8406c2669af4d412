"""The package on a CUDA GPU: `make gpu`."""

import time
from datetime import timedelta

import pytest
import torch

from tests.distributed.feature_runs import found_gradient
from tests.gpu.objectives import OBJECTIVES, STEP, prepared
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.loading.load import resource_overrides
from vldd_dist.errors import DeviceMemoryError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.sharding.gpu_watch import MARK_SECONDS, watching
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of
from vldd_dist.testing.unroll_cases import dual_encoder_case, flat, relative


@pytest.mark.parametrize("name", ["full", "exact", "finite_difference"])
def test_a_gpu_finds_the_gradient_that_a_cpu_finds(name: str, gpu: torch.device) -> None:
    wanted = flat(dual_encoder_case().to(torch.float64).gradient("full"))
    # Convolutions use TF32 where second derivatives are computed, and fp32 for finite differences.
    found = flat(dual_encoder_case().to(gpu).gradient(name))
    assert found.is_cuda
    assert relative(found.cpu().double(), wanted) < 0.03


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_outer_step_on_a_gpu_is_that_on_a_cpu(name: str, gpu: torch.device, store: Store) -> None:
    overrides = prepared(name, store)
    wanted = found_gradient(SOLO, store.url, overrides, STEP)
    found = found_gradient(SOLO, store.url, [*overrides, *resource_overrides(1)], STEP)
    assert found.rows.tolist() == wanted.rows.tolist()
    assert found.terms == pytest.approx(wanted.terms, rel=0.01)
    gradients, others = (one.row_gradients | one.shared_gradients for one in (found, wanted))
    assert set(gradients) == set(others)
    for key, gradient in others.items():
        assert gradients[key].is_cuda, key
        # Convolutions use TF32.
        assert relative(gradients[key].cpu(), gradient) < 0.05, key


def test_a_tiny_experiment_runs_on_a_gpu_from_data_to_publication(gpu: torch.device, store: Store) -> None:
    described = experiment(*resource_overrides(1))
    run(store, Graph(described).units())
    assert all(is_done(store, unit.kind, unit.id) for unit in Graph(described).units())


def test_differences_are_checked_and_taken_on_a_gpu(gpu: torch.device, store: Store) -> None:
    """With an NFNet, whose convolutions torch would compute in TF32 by default."""
    tower = ["model.image.model=test_nfnet", "model.image.train=full", "distill.objective.gradient=finite_difference"]
    (unit,) = units_of(experiment(*resource_overrides(1), *tower), "distillation")
    run(store, [one for one in Graph(experiment(*resource_overrides(1), *tower)).units() if one.kind != "publication"])
    assert is_done(store, unit.kind, unit.id)


def test_running_out_of_gpu_memory_is_a_one_sentence_error(
    gpu: torch.device, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(self: TrainingPairs, model: object) -> TrainingPairs:
        torch.empty(2**50, dtype=torch.uint8, device=gpu)
        raise AssertionError("a GPU has no such memory")

    described = experiment(*resource_overrides(1))
    *before, last = [unit for unit in Graph(described).units() if unit.kind not in ("evaluation", "publication")]
    assert last.kind == "distillation"
    run(store, before)
    monkeypatch.setattr(TrainingPairs, "in_model_inputs", too_much)
    with pytest.raises(DeviceMemoryError, match=r"ran out of memory .*lower distill\.batch_size"):
        execute(last.order(), store, lambda event: None)


@pytest.mark.parametrize(("timeout", "seconds", "told"), [(2, 8, 1), (60, 8, 0)])
def test_work_that_does_not_end_is_told_by_the_watch_of_the_gpu(
    timeout: float, seconds: float, told: int, gpu: torch.device
) -> None:
    """Work of `seconds` seconds, as a collective operation without an answer is, and more operations than the GPU's queue
    holds behind it. A GPU's clock is at most 3 GHz, so the work takes longer on most."""
    sentences: list[str] = []
    count = torch.zeros(1, device=gpu)
    with watching(gpu, timedelta(seconds=timeout), sentences.append):
        torch.cuda._sleep(int(seconds * 3e9))
        for _ in range(5000):
            count.add_(1)
        assert float(count) == 5000
        time.sleep(2 * MARK_SECONDS)
    assert len(sentences) == told
