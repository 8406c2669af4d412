"""evaluation: students trained on pairs."""

from typing import Annotated

from pydantic import AfterValidator, Field

from vldd_dist.config.base import HOW_TO_RUN, AnyPlugin, Distinct, Positive, Rate, Resources, Section, Seed, distinct, plugin_of
from vldd_dist.plugins import METRICS


class EvaluationSettings(Section):
    """The protocol: how students are trained on M pairs from the starting weights, coresets and distilled sets alike."""

    epochs: Positive = Field(100, description="Epochs of the student on the pairs.")
    batch_size: Positive = Field(128)
    learning_rates: Distinct[Rate] = Field([0.01, 0.1], description="Each set's is chosen on validation from this one list.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9)
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4)
    encode_batch: Annotated[Positive, HOW_TO_RUN] = Field(128, description="Images a forward pass when recall is measured.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)


class EvaluationsSettings(EvaluationSettings):
    """All evaluations of an experiment."""

    seeds: Distinct[Seed] = Field([0, 1, 2, 3, 4], description="One student for each set of pairs and seed.")
    metrics: Annotated[list[Annotated[AnyPlugin, plugin_of(METRICS)]], AfterValidator(distinct)] = Field(
        [], description="Metrics of the test split to report beside recall; nothing is selected by them."
    )
    image_models: Annotated[list[str], AfterValidator(distinct)] = Field(
        [], description="Further timm models (random or timm weights) for cross-architecture rows."
    )
