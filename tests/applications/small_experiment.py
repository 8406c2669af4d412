"""The preset of applications, reduced to what a test can run."""

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment

PRESET = "jobs/presets/applications-scenes.yaml"
APPLICATIONS = [
    "{name: architecture_search, candidates: 4, joint_dims: [4, 32], epochs: 2, baselines: [random]}",
    "{name: membership_inference, references: 2}",
    "{name: continual_learning, tasks: 3, pairs_per_task: 4, epochs: 20, "
    "distill: {objective: covariance_matching, outer_steps: 4, validate_every: 4}}",
    "{name: one_shot_federated, clients: 3, clusters: 3, pairs: 3, epochs: 20, rounds: [1, 2], baselines: [random], "
    "concentrations: [0.5], distill: {objective: covariance_matching, outer_steps: 4, validate_every: 4}}",
]
SMALL = [
    "data.train_images=150",
    "data.val_images=80",
    "data.test_images=80",
    "data.shard_images=150",
    "pretrain.images=300",
    "pretrain.epochs=1",
    "distill.outer_steps=8",
    "distill.validate_every=8",
    "experts.readers=1",
    "distill.objective={name: bilevel, teacher_weight: 0, real_batch_size: 100, inner_steps: 4, skipped_steps: 0}",
    "evaluation.epochs=20",
    "evaluation.learning_rates=[0.1]",
    "evaluation.seeds=[0, 1]",
    f"applications.run=[{', '.join(APPLICATIONS)}]",
]


def experiment(*overrides: str) -> Experiment:
    """The preset with these overrides, all of its sizes small."""
    return load_experiment(PRESET, [*SMALL, *overrides])
