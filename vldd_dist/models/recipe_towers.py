"""The towers of a distilled set's recipe, with the starting weights of the students on its card. Needs timm, and peft if they
have adapters."""

from typing import Self

from pydantic import ValidationError
from torch import Tensor, nn

from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, LoraSettings, ModelSettings, TextTowerSettings
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import Recipe
from vldd_dist.errors import DataError
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.models.inputs import model_inputs
from vldd_dist.seeding import derive_seed
from vldd_dist.strict_model import first_error
from vldd_dist.training_loop import freeze_norm_statistics


class RecipeImageTower(nn.Module):
    """A timm backbone and its head: normalised images (B, 3, H, W) -> (B, d).

    Attributes:
        head: features of the backbone (B, F) -> (B, d).
    """

    def __init__(self, student: DualEncoder) -> None:
        super().__init__()
        self.backbone, self.head = student.image_backbone, student.image_head
        # In a list, so that torch does not register the student, with its text head, as a submodule.
        self._student = [student]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # As of the student: statistics of synthetic images differ from those of real ones.
        freeze_norm_statistics(self)
        if self._student[0].freezes_backbone:
            self.backbone.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """The input of `head` for a frozen backbone: features (M, F) of normalised images (M, 3, H, W), without a graph. The
        images are processed in chunks."""
        return model_inputs(self._student[0], images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, d)."""
        return self.head(self.backbone(images))


def build_towers(distilled: DistilledSet, seed: int = 0) -> tuple[RecipeImageTower, nn.Module]:
    """The image tower, and the head on text embeddings (B, D) -> (B, d), for `train_on`.

    Args:
        seed: seed of the heads and adapters, and of a backbone with random weights.

    Raises:
        ConfigError: timm does not know the model, cannot load its public weights, or the model does not return one vector.
        DataError: the weights in the set are of another model, or the recipe has settings that no model has.
        StoreError: the hub with the public weights cannot be reached at the moment.
    """
    recipe = distilled.recipe
    weights = distilled.image_weights
    if recipe.image_weights == "timm":
        name = recipe.public_weights.get("name", recipe.image_model)
        weights = create_backbone(name, recipe.image_model_args, pretrained=True, seed=0).state_dict()
    try:
        settings = _settings_of(recipe, "random" if weights is None else recipe.image_weights)
    except ValidationError as error:
        raise DataError(f"the set's recipe: {first_error(error)}: no model has this") from None
    # As in the evaluation.
    student = build(settings, distilled.texts.shape[1], weights, derive_seed(seed, "head"))
    return RecipeImageTower(student), student.text_head


def _settings_of(recipe: Recipe, weights: str) -> ModelSettings:
    """The description of the recipe's model. Raises ValidationError if a setting is out of bounds."""
    image = ImageTowerSettings(
        model=recipe.image_model,
        model_args=recipe.image_model_args,
        weights=weights,
        mean=recipe.mean,
        std=recipe.std,
        train=recipe.image_train,
        lora=LoraSettings.model_validate(recipe.lora or {}),
        head=HeadSettings(kind=recipe.image_head, dropout=recipe.image_dropout),
    )
    text = TextTowerSettings(train=recipe.text_train, head=HeadSettings(kind=recipe.text_head, dropout=recipe.text_dropout))
    return ModelSettings(image=image, text=text, joint_dim=recipe.joint_dim)
