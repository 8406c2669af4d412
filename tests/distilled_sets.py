"""A small distilled set, with the recipe of its students, and one with a learned similarity."""

from typing import Any

import torch

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import NearestCaptions, Recipe
from vldd_dist.distilled_set.publishing.write import files_of
from vldd_dist.models.losses.wbce import WeightedBCE
from vldd_dist.store.store import Store

RECIPE = Recipe(
    image_model="test_nfnet", image_model_args={}, image_weights="random", image_train="full", image_head="none", image_size=16,
    mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), text_encoder={"model": "minilm"}, text_head="projection", joint_dim=None,
    loss={"name": "infonce", "temperature": 0.07}, epochs=3, batch_size=4, learning_rate=0.01, momentum=0.9, weight_decay=0.0,
)  # fmt: skip


def distilled_set(pairs: int = 5) -> DistilledSet:
    generator = torch.Generator().manual_seed(0)
    return DistilledSet(
        rows={
            "images": torch.randn(pairs, 3, 16, 16, generator=generator),
            "texts": torch.randn(pairs, 8, generator=generator),
        },
        shared={"log_rates": torch.tensor([0.1, 0.2]).log()},
        learned={"inner_lr_image": 0.1, "inner_lr_text": 0.2},
        recipe=RECIPE,
        captions=[NearestCaptions(before="a", after="b", similarity=0.5)] * pairs,
    )


def with_similarity(similarity: dict[str, Any]) -> DistilledSet:
    """A set with a learned similarity at its starting values."""
    loss, shown = WeightedBCE(similarity=similarity), distilled_set()
    shown.rows |= {name: one.start for name, one in loss.learned_rows(range(len(shown)), len(shown)).items()}
    shown.recipe = RECIPE.model_copy(update={"loss": loss.model_dump(mode="json")})
    return shown


def save_unchecked(distilled: DistilledSet, url: str) -> None:
    """Write a set that `save` refuses, as another program may have written it."""
    for name, content in files_of(distilled).items():
        Store(url).write(name, content)
