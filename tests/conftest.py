"""What several rooms' tests share: one thread, no network, a small experiment."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from vldd_dist.storage.store import Store

torch.set_num_threads(1)

# Overrides that turn the demo into seconds; random weights spare the pretraining.
TINY = [
    "data.train_images=48",
    "data.val_images=12",
    "data.test_images=12",
    "data.shard_images=16",
    "model.image.weights=random",
    "experts.count=2",
    "experts.epochs=3",
    "experts.batch_size=16",
    "experts.momentum=0.5",
    "distill.pairs=[4]",
    "distill.outer_steps=6",
    "distill.inner_steps=2",
    "distill.gradient=exact",
    "distill.max_start_epoch=1",
    "distill.validate_every=3",
    "distill.checkpoint_every=2",
    "coresets.methods=[random, k_center, forgetting]",
    "evaluation.seeds=[0]",
    "evaluation.epochs=2",
    "evaluation.learning_rates=[0.03]",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in a folder of its own."""
    return Store(str(tmp_path / "store"))
