"""evaluation: students trained on pairs."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from vldd_dist.config.base import HOW_TO_RUN, AnyPlugin, Distinct, Positive, Rate, Resources, Section, Seed, distinct, plugin_of
from vldd_dist.config.sections.model import ImageTowerSettings
from vldd_dist.plugins import METRICS


class EvaluationSettings(Section):
    """The protocol: how students are trained on M pairs from the starting weights, coresets and distilled sets alike."""

    epochs: Positive = Field(100, description="Epochs of the student on the pairs.")
    batch_size: Positive = Field(128, description="Pairs a step.")
    learning_rates: Distinct[Rate] = Field([0.01, 0.1], description="Each set's is chosen on validation from this one list.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of the students' sgd.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="Weight decay of the students' sgd.")
    encode_batch: Annotated[Positive, HOW_TO_RUN] = Field(128, description="Images a forward pass when recall is measured.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)


class ImageModelSettings(Section):
    """A further image model for cross-architecture rows. All that has no field here is as in model.image."""

    model: str = Field(description="Name of a timm model.")
    model_args: dict[str, JsonValue] = Field(default_factory=dict, description="Further arguments of timm.create_model.")
    weights: str | None = Field(
        None, description="As model.image.weights; none: the same kind, which must be timm, random or attributes then."
    )
    mean: tuple[float, float, float] | None = Field(None, description="As model.image.mean; none: the same.")
    std: tuple[float, float, float] | None = Field(None, description="As model.image.std; none: the same.")
    learning_rates: Distinct[Rate] | None = Field(
        None,
        description="Of this model's students; none: evaluation.learning_rates. Chosen on validation for each set and model.",
    )

    def tower(self, own: ImageTowerSettings) -> ImageTowerSettings:
        """The image tower that it makes of the experiment's own."""
        given = {name: getattr(self, name) for name in ("weights", "mean", "std")}
        changes = {name: value for name, value in given.items() if value is not None}
        return own.model_copy(update={"model": self.model, "model_args": self.model_args, **changes})


def _as_mappings(given: Any) -> Any:
    """A name is an entry without settings of its own."""
    return [{"model": entry} if isinstance(entry, str) else entry for entry in given] if isinstance(given, list) else given


def _one_row_a_model(entries: list[ImageModelSettings]) -> list[ImageModelSettings]:
    """Rows are told apart by the model's name."""
    distinct([entry.model for entry in entries])
    return entries


class EvaluationsSettings(EvaluationSettings):
    """All evaluations of an experiment."""

    seeds: Distinct[Seed] = Field([0, 1, 2, 3, 4], description="One student for each set of pairs and seed.")
    metrics: Annotated[list[Annotated[AnyPlugin, plugin_of(METRICS)]], AfterValidator(distinct)] = Field(
        [], description="Metrics of the test split to report beside recall; nothing is selected by them."
    )
    image_models: Annotated[list[ImageModelSettings], BeforeValidator(_as_mappings), AfterValidator(_one_row_a_model)] = Field(
        [],
        description="Further image models, a cross-architecture row each: names of timm models, or mappings with `model` and what "
        "differs from model.image (model_args, weights, mean, std) and from evaluation (learning_rates).",
    )
