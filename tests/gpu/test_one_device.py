"""The code for GPUs on a simulated device: no operation mixes its tensors with those of the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.distilling import distillation_settings, distilling
from tests.distributed.feature_runs import start
from tests.gpu.objectives import OBJECTIVES, STEP, prepared
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.evaluation.evaluator import Evaluator, TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.fresh_weights import FreshWeights
from vldd_dist.models.losses.wbce import WeightedBCE
from vldd_dist.retrieval.encode import retrieval_split
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.pretended_device import DEVICE, pretended_device, put_there

SIZE, TEXT_DIM = 32, 16
VIT = {"model": "test_vit", "model_args": {"img_size": SIZE}}


def model(**image: Any) -> DualEncoder:
    settings = ImageTowerSettings(weights="random", head=HeadSettings(kind="linear"), **image)
    return build(ModelSettings(image=settings, text=TextTowerSettings(), joint_dim=16), TEXT_DIM, None, 0)


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with pretended_device():
        there = torch.empty(3, device=DEVICE)
        assert (there.cpu() + torch.ones(3)).device.type == "cpu"
        with pytest.raises(RuntimeError, match="device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="device"):
            there.index_add_(0, torch.arange(3), there)
        assert float(torch.ones(2).sum()) == 2


@pytest.mark.parametrize(
    ("image", "objective"),
    [
        ({"model": "test_nfnet"}, {"gradient": "exact", "dropout": True, "offload_snapshots": "cpu"}),
        ({**VIT, "train": "lora"}, {"gradient": "finite_difference", "difference": "forward", "shortcut": {}}),
        ({"model": "test_nfnet", "train": "head"}, {"gradient": "full", "blend": {}}),
    ],
    ids=["whole", "lora", "frozen"],
)
def test_an_outer_step_keeps_to_one_device(image: dict[str, Any], objective: dict[str, Any], tmp_path: Path) -> None:
    student = model(**image)
    settings = distillation_settings(SIZE, TEXT_DIM, objective={"inner_steps": 2, **objective}, batch_size=3, ema=0.9)
    with pretended_device():
        put_there(student)
        with distilling(student, settings, 4, Store(str(tmp_path))) as run:
            run.outer_step(0)
            run._validate(1)
        assert {tensor.device for tensor in run.pairs.rows.values()} == {DEVICE}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_outer_step_of_an_objective_with_real_pairs_keeps_to_one_device(
    name: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It makes modules on the CPU by `Module.to_empty`, which fails on the simulated device.
    monkeypatch.setattr(FreshWeights, "draw", lambda self, seed: {})
    _, inputs, _ = start(SOLO, store.url, prepared(name, store))
    with pretended_device():
        put_there(inputs.model)
        pairs, _ = starting_pairs(inputs)
        with inputs.settings.objective.open(inputs) as problem:
            found = problem.gradient(STEP, pairs)
        gradients = found.row_gradients | found.shared_gradients
        assert {name: tensor.device for name, tensor in gradients.items()} == dict.fromkeys(gradients, DEVICE)
        assert {"images", "texts"} <= set(gradients)


@pytest.mark.parametrize("train", ["full", "head"])
def test_an_evaluation_keeps_to_one_device(train: str) -> None:
    student, loss = model(train=train, **VIT), WeightedBCE()
    settings = EvaluationProtocol(epochs=1, batch_size=3, learning_rates=[0.1, 0.2])
    with pretended_device():
        put_there(student)
        images, texts = torch.zeros(4, 3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(8, TEXT_DIM)
        split = retrieval_split(student, images, texts, torch.arange(4).repeat_interleave(2), 3)
        rows = {"images": torch.empty(5, 3, SIZE, SIZE, device=DEVICE), "texts": torch.empty(5, TEXT_DIM, device=DEVICE)}
        rows |= {name: one.start.to(DEVICE) for name, one in loss.learned_rows(range(5), 5).items()}
        Evaluator(lambda: student, settings, loss, 0).choose(TrainingPairs(rows, 5), split)
