"""Facts of a unit of each kind, as its manifest has them."""

from typing import Any

from vldd_dist.recall_metrics import RECALL_METRICS

RECALLS = dict.fromkeys(RECALL_METRICS, 50.0)
SHARD = {"name": "train-000000", "images": 2, "captions": 10, "bytes": 10240}
SPLIT = {"shards": 1, "images": 2, "captions": 10, "bytes": 10240, "bad_images": 0}
EXAMPLES: dict[str, dict[str, Any]] = {
    "shard_group": {
        "splits": {"train": {"shards": [SHARD]}},
        "samples": 2,
        "bad": {"count": 0, "worst": "", "in_worst": 0},
    },
    "dataset": {
        "splits": {"train": SPLIT},
        "duplicates": {"train, val": 0},
        "image_size": 32,
        "source": "scenes",
        "licence": "CC0-1.0",
    },
    "image_weights": {"tensors": 3},
    "embedding_group": {"captions": 10, "distinct": 9, "dim": 4, "encoder": {"model": "minilm"}},
    "feature_group": {"images": 2, "dim": 8},
    "image_features": {"images": 2, "dim": 8},
    "caption_embeddings": {"captions": 10, "dim": 4, "encoder": {"model": "minilm"}},
    "expert": {"loss": [1.0], "validation": [RECALLS, RECALLS], "epochs": [0, 1]},
    "features": {"images": 2, "dim": 4},
    "coreset": {"keys": ["a"], "captions": ["b"]},
    "distillation": {
        "best_step": 5,
        "best_validation": 40.0,
        "validation": [(0, 10.0), (5, 40.0)],
        "start": {"initialise": "real"},
        "objective": {"difference_check": {"relative_epsilon": 1e-4, "error": 1e-3, "against": "exact", "later": []}},
    },
    "evaluation": {"test": RECALLS, "learning_rate": 0.1, "validation": [[0.1, RECALLS]]},
    "application": {
        "application": "architecture_search",
        "results": [{"method": "distilled", "setting": "10 pairs", "figures": {"tau": [0.5, 0.75]}}],
    },
    "publication": {"folder": "distilled/x", "size_bytes": 1200, "digest": "0" * 64},
}
