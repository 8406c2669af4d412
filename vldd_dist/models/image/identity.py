"""Identifies the weights of an image tower without loading them into a model."""

from vldd_dist.config.sections.model import ImageTowerSettings
from vldd_dist.errors import DataError
from vldd_dist.store.user_files.digests import sha256_of
from vldd_dist.store.user_files.reachability import check_reachable, reason_of


def weights_identity(settings: ImageTowerSettings) -> dict[str, str]:
    """Identifies image weights: "timm" for a hub's weights (the model's name is known elsewhere), or the sha256 of a file.

    Raises:
        DataError: the file is missing, or this user may not read it.
        StoreError: the file cannot be reached at the moment.
    """
    if settings.weights == "timm":
        return {"weights": "timm"}
    try:
        return {"sha256": sha256_of(settings.weights)}
    except Exception as error:
        # Client libraries of object stores raise exceptions of their own.
        check_reachable(f"model.image.weights: {settings.weights}", error)
        raise DataError(
            f"model.image.weights: {settings.weights}, for {settings.model}, cannot be read ({reason_of(error)}): "
            "name a .safetensors file, timm, random or attributes"
        ) from None
