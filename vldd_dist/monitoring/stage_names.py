"""What people read for each kind of unit, in the order in which stages begin."""

STAGE_NAMES = {
    "dataset": "dataset",
    "image_weights": "image weights",
    "caption_embeddings": "caption embeddings",
    "expert": "experts",
    "features": "features",
    "coreset": "coresets",
    "distillation": "distillations",
    "evaluation": "evaluations",
    "publication": "publications",
}
STAGE_ORDER = {kind: position for position, kind in enumerate(STAGE_NAMES)}
