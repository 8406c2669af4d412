"""evaluation: students trained on pairs."""

from typing import Annotated

from pydantic import AfterValidator, Field

from vldd_dist.config.base import Distinct, Positive, Rate, Resources, Section, Seed, distinct


class EvaluationSettings(Section):
    """Students trained on M pairs from the starting weights: coresets and distilled sets alike."""

    seeds: Distinct[Seed] = [0, 1, 2, 3, 4]
    epochs: Positive = Field(100, description="Epochs of the student on the pairs.")
    batch_size: Positive = Field(128)
    learning_rates: Distinct[Rate] = Field([0.01, 0.1], description="Each set's is chosen on validation from this one list.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9)
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4)
    encode_batch: Positive = Field(128, description="Pictures a forward pass when recall is measured.")
    image_models: Annotated[list[str], AfterValidator(distinct)] = Field(
        [], description="Further timm models (random or timm weights) for cross-architecture rows."
    )
    resources: Resources = Field(default_factory=Resources)
