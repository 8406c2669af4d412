"""Identifies the weights of an image tower without loading them into a model."""

from hashlib import file_digest

import fsspec

from vldd_dist.config.sections.model import ImageTowerSettings
from vldd_dist.errors import DataError


def weights_identity(settings: ImageTowerSettings) -> dict[str, str]:
    """Identifies image weights: "timm" for a hub's weights (the model's name is known elsewhere), or the sha256 of a file.

    Raises:
        DataError: the file is missing.
    """
    if settings.weights == "timm":
        return {"weights": "timm"}
    try:
        with fsspec.open(settings.weights, "rb") as file:
            return {"sha256": file_digest(file, "sha256").hexdigest()}
    except (OSError, ValueError, ImportError):
        raise DataError(
            f"model.image.weights: {settings.weights}, for {settings.model}, cannot be read: "
            "name a .safetensors file, timm, random or attributes"
        ) from None
