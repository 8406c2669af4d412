"""evaluation: how students are trained on pairs and measured."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat

from vldd_dist.config.base import (
    HOW_TO_RUN,
    AnyPlugin,
    Distinct,
    PairCount,
    Plugin,
    Positive,
    Rate,
    Resources,
    Section,
    Seed,
    distinct,
    plugin_of,
)
from vldd_dist.config.sections.model import ImageTowerSettings, ModelArguments, PixelMean, PixelStd
from vldd_dist.plugins import METRICS
from vldd_dist.recall_metrics import OTHER_COLUMNS, RECALL_METRICS


class EvaluationProtocol(Section):
    """The protocol: how students are trained from the starting weights on M pairs. It is the same for coresets and distilled sets."""

    epochs: Positive = Field(100, description="Epochs that a student is trained on the pairs.")
    batch_size: PairCount = Field(
        128, description="The largest number of pairs in a step. The steps of an epoch have equally many pairs, or one more."
    )
    learning_rates: Distinct[Rate] = Field(
        [0.01, 0.1],
        description="Learning rates to choose from; the choice is made on the validation split for each set of pairs.",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of the students' SGD.")
    weight_decay: NonNegativeFloat = Field(5e-4, description="Weight decay of the students' SGD.")
    encode_batch: Annotated[Positive, HOW_TO_RUN] = Field(
        128,
        description="Images in a forward pass when recall is measured, and when the features of a frozen backbone are computed.",
    )
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)


class ImageModelSettings(Section):
    """A further image tower for cross-architecture rows. Settings without a field here are those of model.image."""

    model: str = Field(description="Name of a timm model.")
    model_args: ModelArguments = Field(default_factory=dict, description="Further arguments of timm.create_model.")
    weights: str | None = Field(
        None,
        description="Weights, as for model.image.weights; null: its value, which must then be timm, random or attributes.",
    )
    mean: tuple[PixelMean, PixelMean, PixelMean] | None = Field(None, description="Per-channel mean; null: model.image.mean.")
    std: tuple[PixelStd, PixelStd, PixelStd] | None = Field(
        None, description="Per-channel standard deviation; null: model.image.std."
    )
    learning_rates: Distinct[Rate] | None = Field(
        None,
        description="Learning rates to choose from for this model's students; null: evaluation.learning_rates. The choice is made "
        "on the validation split for each set of pairs and model.",
    )

    def tower(self, default: ImageTowerSettings) -> ImageTowerSettings:
        """The image tower with this model; `default` is model.image, which gives all that is not set here."""
        settings = {name: getattr(self, name) for name in ("weights", "mean", "std")}
        changes = {name: value for name, value in settings.items() if value is not None}
        return default.model_copy(update={"model": self.model, "model_args": self.model_args, **changes})


def _as_mappings(entries: Any) -> Any:
    """Expand a name to an entry without further settings."""
    return (
        [{"model": entry} if isinstance(entry, str) else entry for entry in entries] if isinstance(entries, list) else entries
    )


def _one_row_a_model(entries: list[ImageModelSettings]) -> list[ImageModelSettings]:
    """The entries; raises ValueError if two have the same model, because rows are identified by the model's name."""
    distinct([entry.model for entry in entries])
    return entries


def _own_columns(metrics: list[Plugin]) -> list[Plugin]:
    """The metrics; raises ValueError if one has the name of another column of the recall table."""
    distinct(metrics)
    if taken := [metric.label for metric in metrics if metric.label in (*RECALL_METRICS, *OTHER_COLUMNS)]:
        raise ValueError(f"the recall table has another column {taken[0]!r}: register the metric under another name")
    return metrics


class EvaluationSection(EvaluationProtocol):
    """All evaluations of an experiment."""

    seeds: Distinct[Seed] = Field(
        [0, 1, 2, 3, 4], description="Seeds of the students: one student is trained for each set of pairs and seed."
    )
    metrics: Annotated[list[Annotated[AnyPlugin, plugin_of(METRICS)]], AfterValidator(_own_columns)] = Field(
        [],
        description="Metrics on the test split to report in addition to recall. Pairs and learning rates are chosen by validation "
        "recall only.",
    )
    image_models: Annotated[list[ImageModelSettings], BeforeValidator(_as_mappings), AfterValidator(_one_row_a_model)] = Field(
        [],
        description="Further image towers, each with a cross-architecture row: names of timm models, or mappings with `model` and "
        "the settings that differ from model.image (model_args, weights, mean, std) and from evaluation (learning_rates).",
    )
