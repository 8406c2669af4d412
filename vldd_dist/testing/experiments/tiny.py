"""Settings of an experiment that takes seconds, and how long a test waits before it considers a process hung."""

# A process that takes longer is considered hung. No test measures wall time, because the machine may be busy with other work.
HANG_SECONDS = 900.0

# Overrides that shorten the demo to seconds; random weights avoid the pretraining.
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
    "distill.initialise=real",
    "distill.outer_steps=6",
    "distill.lr_images=0.05",
    "distill.lr_texts=0.05",
    "distill.ema=0",
    "distill.objective.inner_steps=2",
    "distill.objective.gradient=exact",
    "distill.objective.max_start_epoch=1",
    "distill.validate_every=3",
    "distill.checkpoint_every=2",
    "coresets.methods=[random, k_center, forgetting]",
    "evaluation.seeds=[0]",
    "evaluation.epochs=2",
    "evaluation.learning_rates=[0.03]",
]
