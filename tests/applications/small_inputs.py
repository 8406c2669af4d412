"""Inputs of applications with random features, and the students for them."""

import torch

from tests.applications.small_experiment import experiment
from vldd_dist.applications.feature_space.inputs import Inputs
from vldd_dist.applications.feature_space.students import Students
from vldd_dist.retrieval.encode import RetrievalSplit


def random_split(images: int = 30, dim: int = 8, seed: int = 0) -> RetrievalSplit:
    """Features (n, dim) and embeddings (n, 6), one caption for each image."""
    generator = torch.Generator().manual_seed(seed)
    features, texts = torch.randn(images, dim, generator=generator), torch.randn(images, 6, generator=generator)
    return RetrievalSplit(features, texts, torch.arange(images))


def small_students() -> Students:
    """Students for the pairs of `random_split`, trained for two epochs."""
    described = experiment("model.joint_dim=4", "evaluation.epochs=2")
    return Students(described.model, 8, 6, described.evaluation, torch.device("cpu"))


def inputs() -> Inputs:
    """Three splits of 40 images with features (40, 4), and students for them with a choice of two rates."""
    described = experiment("model.joint_dim=4", "evaluation.learning_rates=[0.1, 0.2]")
    students = Students(described.model, 4, 6, described.evaluation, torch.device("cpu"))
    train, validation, test = (random_split(40, 4, seed) for seed in range(3))
    return Inputs(train=train, validation=validation, test=test, students=students, seeds=[0], seed=0)
