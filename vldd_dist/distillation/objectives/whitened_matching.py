"""Whitened covariance matching (after APM, ICML 2026): match the whitened cross-covariance of the synthetic pairs to that of
all real pairs.

With the squared error |H W V^T - I|^2 in place of InfoNCE, the best linear map between centred image features H and texts V has
the closed form W = (H^T H)^-1 H^T V (V^T V)^-1. So what a model learns from a set of pairs is their whitened cross-covariance.
Both sides are whitened by the covariances of the real pairs, because those of a few synthetic pairs have no inverse.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from vldd_dist.config.base import Positive
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.objectives.covariance_matching import cross_covariance
from vldd_dist.distillation.objectives.feature_matching import FeatureCosts, FeatureMatching, FeatureProblem
from vldd_dist.distillation.objectives.outer_problem import OuterProblem
from vldd_dist.distillation.real_data.whitening import whitened_moments

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class WhitenedMatching(FeatureMatching):
    """The outer loss is |S_v^(-1/2) (C_real - C_synthetic) S_l^(-1/2)|^2 (Frobenius), plus a weighted squared distance of the
    whitened means. C is the cross-covariance of backbone features and caption embeddings; S_v and S_l are their covariances
    over the training pairs. The moments of the real pairs are computed once, so the backbone must be frozen."""

    needs: ClassVar[frozenset[str]] = frozenset({"real_batches"})
    name: str = "whitened_matching"
    ridge: PositiveFloat = Field(
        1.0, description="Added to both covariances, in units of their mean variance; with a small one noise is matched too."
    )
    caption_subsets: Positive = Field(
        5,
        description="Number K of caption subsets. Outer step n uses subset k = n mod K: caption k mod C of each image with C "
        "captions.",
    )
    mean_weight: NonNegativeFloat = Field(
        0.1, description="Weight of the distance of the means; 0: only the covariance is matched."
    )

    def conflicts(self, experiment: "Experiment") -> list[str]:
        conflicts = super().conflicts(experiment)
        if not experiment.model.has_features:
            conflicts.append(
                "distill.objective: whitened_matching computes the real features once: set model.image.train to head or "
                "frozen, and model.image.weights to something other than random"
            )
        return conflicts

    @contextmanager
    def open(self, context: DistillationContext) -> Iterator[OuterProblem]:
        yield WhitenedProblem(self, context)

    def costs(self) -> "WhitenedCosts":
        return WhitenedCosts(self)


class WhitenedCosts(FeatureCosts[WhitenedMatching]):
    """The costs of `WhitenedMatching`."""

    def kept_numbers(self, image_dim: int, text_dim: int) -> int:
        return image_dim**2 + text_dim**2 + self.objective.caption_subsets * image_dim * text_dim


class WhitenedProblem(FeatureProblem):
    """Each outer step compares all synthetic pairs with the moments of all real ones, which every rank computes itself."""

    def __init__(self, settings: WhitenedMatching, context: DistillationContext) -> None:
        super().__init__(context)
        self.settings = settings
        assert context.image_features is not None
        moments = whitened_moments(context.image_features, context.embeddings, settings.caption_subsets, settings.ridge)
        device = context.device
        self.image, self.text, self.cross = (matrix.to(device) for matrix in (moments.image, moments.text, moments.cross))
        self.mean, self.means = (mean.to(device) for mean in moments.means)

    def terms(self, step: int, features: Tensor, texts: Tensor) -> dict[str, Tensor]:
        subset = step % self.settings.caption_subsets
        images, texts = (features - self.mean) @ self.image, (texts - self.means[subset]) @ self.text
        difference = self.cross[subset] - cross_covariance(images, texts)
        distance = torch.cat([images.mean(dim=0), texts.mean(dim=0)]).square().sum()
        return {"covariance": difference.square().sum(), "means": self.settings.mean_weight * distance}
