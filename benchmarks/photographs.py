"""Flickr8k as shards with the weights that the published figures were measured with: overrides of the presets on Flickr8k."""

from pathlib import Path


def overrides_of(folder: Path) -> list[str]:
    """The overrides of `flickr8k-cpu` and the studies based on it.

    Args:
        folder: with flickr8k/flickr8k-{train-000..005,val-000,test-000}.tar and
            weights/mobilenetv2_100_imagenet_fp16.safetensors.
    """
    shards, weights = folder / "flickr8k", folder / "weights"
    source = {
        "train": f"'{shards}/flickr8k-train-{{000..005}}.tar'",
        "val": f"'{shards}/flickr8k-val-000.tar'",
        "test": f"'{shards}/flickr8k-test-000.tar'",
    }
    return [
        f"data.source={{name: shards, {', '.join(f'{split}: {tars}' for split, tars in source.items())}}}",
        f"model.image.weights={weights}/mobilenetv2_100_imagenet_fp16.safetensors",
        # These weights were trained with TensorFlow's padding.
        "model.image.model_args={pad_type: same}",
    ]
