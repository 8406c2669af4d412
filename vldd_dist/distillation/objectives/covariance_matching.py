"""Covariance matching: match the cross-covariance of image and text features of synthetic pairs to that of real pairs
(CovMatch, Lee et al. 2510.18583).

In the published method both encoders take the contrastive steps, and input token embeddings are learned. Here the text encoder
is frozen and its output is learned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from vldd_dist.config.base import PairCount, Positive, Rate
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.objectives.feature_matching import FeatureCosts, FeatureMatching, FeatureProblem
from vldd_dist.distillation.objectives.outer_problem import OuterProblem
from vldd_dist.distillation.real_data.online_model import OnlineModel
from vldd_dist.distillation.real_data.step_batches import StepBatches


class CovarianceMatching(FeatureMatching):
    """The outer loss is |rho C_real - C_synthetic|^2 (Frobenius), where C is the cross-covariance of backbone features and
    caption embeddings, plus the weighted squared distances of the mean joint features of images and of texts."""

    needs: ClassVar[frozenset[str]] = frozenset({"real_batches"})
    name: str = "covariance_matching"
    real_batch_size: PairCount = Field(128, description="Real pairs of an outer step.")
    rho: PositiveFloat = Field(1.0, description="Factor of the real cross-covariance (published: 2 at 100 pairs, else 1).")
    mean_weight: NonNegativeFloat = Field(0.1, description="Weight of the distance of the means.")
    train_model: bool = Field(
        True,
        description=(
            "After each outer step, train the parts of the model that model.*.train names with one contrastive step on the "
            "real batch; false: it keeps its starting weights."
        ),
    )
    lr_encoder: Rate = Field(0.01, description="Learning rate of the image backbone in these training steps.")
    lr_heads: Rate = Field(0.1, description="Learning rate of the heads in these training steps.")
    reset_every: Positive = Field(
        50,
        description="Every so many outer steps the model is reset to its starting weights, with freshly drawn heads, "
        "adapters and, if it is trained from random weights, backbone.",
    )

    def trains_model(self) -> bool:
        return self.train_model

    @contextmanager
    def open(self, context: DistillationContext) -> Iterator[OuterProblem]:
        yield CovarianceProblem(self, context)

    def costs(self) -> "CovarianceCosts":
        return CovarianceCosts(self)


class CovarianceCosts(FeatureCosts[CovarianceMatching]):
    """The costs of `CovarianceMatching`."""

    def real_rows(self) -> int:
        return self.objective.real_batch_size


class CovarianceProblem(FeatureProblem):
    """Each outer step compares all synthetic pairs with a real minibatch."""

    def __init__(self, settings: CovarianceMatching, context: DistillationContext) -> None:
        super().__init__(context)
        self.settings = settings
        self.real = StepBatches(context, self.frozen_backbone, settings.real_batch_size)
        self.online: OnlineModel | None = None
        if settings.train_model:
            self.online = OnlineModel(
                context,
                self.real,
                lr_encoder=settings.lr_encoder,
                lr_heads=settings.lr_heads,
                reset_every=settings.reset_every,
            )

    def prepare(self, step: int) -> None:
        if self.online:
            self.online.bring_to(step)

    def terms(self, step: int, features: Tensor, texts: Tensor) -> dict[str, Tensor]:
        settings, heads = self.settings, (self.model.image_head, self.model.text_head)
        real, synthetic = self.real.all_rows(step), (features, texts)
        difference = settings.rho * cross_covariance(*real) - cross_covariance(*synthetic)
        distances = [
            (head(synthetic_rows).mean(dim=0) - head(real_rows).mean(dim=0)).square().sum()
            for head, synthetic_rows, real_rows in zip(heads, synthetic, real, strict=True)
        ]
        return {"covariance": difference.square().sum(), "means": settings.mean_weight * torch.stack(distances).sum()}


def cross_covariance(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased (F, D) cross-covariance of the columns of `a` (n, F) and `b` (n, D); zero for a single row."""
    return (a - a.mean(dim=0)).T @ (b - b.mean(dim=0)) / max(len(a) - 1, 1)
