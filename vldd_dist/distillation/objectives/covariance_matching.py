"""Covariance matching: synthetic pairs whose image and text features covary as those of real pairs do (CovMatch, Lee et al.
2510.18583).

The encoders stay at their starting weights, where the published method also takes a contrastive step of them on real pairs at
every outer step and goes back to the start every fifty.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.config.base import Positive, Rate
from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.objectives.base import Objective, OuterGradient, OuterProblem
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.models.frozen_tower import FeaturesWithGraph, FrozenTower
from vldd_dist.seeding import derive_seed

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


class CovarianceMatching(Objective):
    """|rho C_real - C_synthetic|^2 (Frobenius), C the cross-covariance of backbone features and caption embeddings, and a
    weighted squared distance of the mean joint features, tower by tower."""

    needs: ClassVar[frozenset[str]] = frozenset({"real_batches"})
    name: str = "covariance_matching"
    real_batch_size: Positive = Field(128, description="Real pairs an outer step.")
    rho: Rate = Field(1.0, description="The real cross-covariance is multiplied by it.")
    mean_weight: Annotated[float, Field(ge=0)] = Field(0.1, description="Weight of the distance of means.")

    def problems(self, experiment: "Experiment") -> list[str]:
        loss, found = experiment.model.loss, []
        if learned := [*loss.learned_rows(range(1), 1), *loss.learned_shared()]:
            found.append(
                f"model.loss: {learned[0]} cannot be learned by distill.objective: covariance_matching, without a student"
            )
        if experiment.distill.zero_stage:
            found.append(
                "distill.zero_stage shards a student, and distill.objective: covariance_matching has none: set it to 0"
            )
        return found

    @contextmanager
    def open(self, context: RunContext) -> Iterator[OuterProblem]:
        yield CovarianceProblem(self, context)


class CovarianceProblem(OuterProblem):
    """All synthetic pairs against a real mini-batch at every step. Each rank encodes its rows; the features of all rows are
    gathered, and each rank takes 1/world of the loss as its part."""

    def __init__(self, settings: CovarianceMatching, context: RunContext) -> None:
        # Here, so that this module loads without the libraries that read shards.
        from vldd_dist.data.real_batches import RealBatches

        self.settings, self.context = settings, context
        self.model = context.model.eval().requires_grad_(False)
        self.tower = FrozenTower(self.model.image_backbone, bf16=context.settings.precision == "bf16")
        self._fixed_features: Tensor | None = None
        seed = derive_seed(context.seed, "distillation", context.total, "real")
        self.real = RealBatches(
            context.embeddings, context.image_features, settings.real_batch_size, seed, context.ranks.rows_to_compute
        )

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        ranks, texts = self.context.ranks, pairs.texts
        real = self._real_features(step)
        encoded = None if "images" in pairs.fixed else self._encoded(pairs)
        features = encoded.features if encoded else self._features_of_fixed(pairs)
        synthetic = {"images": features.detach(), "texts": texts.detach()}
        leaves = {name: tensor.requires_grad_() for name, tensor in pairs.learned(synthetic).items()}
        gather_rows = ranks.rows_gatherer(self.context.total)
        terms = self._terms((gather_rows(synthetic["images"]), gather_rows(synthetic["texts"])), real)
        loss = sum(terms.values(), texts.new_zeros(())) / ranks.world_size
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        if encoded:
            gradients["images"] = encoded.pixel_gradients(gradients["images"])
        return OuterGradient(
            {name: term.item() for name, term in terms.items()},
            torch.arange(len(pairs), device=texts.device),
            gradients,
            {},
        )

    def _encoded(self, pairs: SyntheticPairs) -> FeaturesWithGraph:
        return self.tower.features_with_graph(pairs.images, self.context.settings.tower_graph_mib << 20)

    def _features_of_fixed(self, pairs: SyntheticPairs) -> Tensor:
        """Of images that keep their start, made once."""
        if self._fixed_features is None:
            self._fixed_features = self.tower.features(pairs.images)
        return self._fixed_features

    def _terms(self, synthetic: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Of features (n, F) and embeddings (n, D) of both kinds of pairs."""
        settings, heads = self.settings, (self.model.image_head, self.model.text_head)
        difference = settings.rho * cross_covariance(*real) - cross_covariance(*synthetic)
        distances = [
            (head(ours).mean(dim=0) - head(theirs).mean(dim=0)).square().sum()
            for head, ours, theirs in zip(heads, synthetic, real, strict=True)
        ]
        return {"covariance": difference.square().sum(), "means": settings.mean_weight * torch.stack(distances).sum()}

    @torch.no_grad()
    def _real_features(self, step: int) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, D), of all ranks' rows."""
        batch, device = self.real[step], self.context.device
        images, texts = batch.images.to(device), batch.texts.to(device)
        features = self.tower.features(self.model.normalise(images)) if self.context.image_features is None else images
        gather_rows = self.context.ranks.rows_gatherer(len(batch.entries))
        return gather_rows(features), gather_rows(texts)


def cross_covariance(a: Tensor, b: Tensor) -> Tensor:
    """(F, D), unbiased, of the columns of (n, F) and (n, D); of one row zero."""
    return (a - a.mean(dim=0)).T @ (b - b.mean(dim=0)) / max(len(a) - 1, 1)
