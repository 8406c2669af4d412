"""A whole experiment on a frozen backbone, with the code before features became units and with today's, each from an empty
store."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.photographs import overrides_of as photographs_overrides

# The last commit in which every unit passed each image through the frozen backbone.
BEFORE = "446acba"
ROOT = Path(__file__).parents[2]

# Of both versions: their defaults differ.
EQUAL = ("coresets.methods=[random, herding, k_center, forgetting]",)
# Today's preset limits the splits, which makes one worker prepare all tars of a split. The earlier one does not.
UNLIMITED = ("data.train_images=null", "data.val_images=null", "data.test_images=null")
# The Flickr8k preset, shortened: MobileNetV2 at 128 px with its backbone frozen.
SHORTENED = (
    "data.train_images=2000",
    "data.val_images=300",
    "data.test_images=300",
    "experts.count=2",
    "distill.outer_steps=20",
    "distill.validate_every=10",
)
# Without photographs: scenes of 128 px, and a tower with very little pretraining.
QUICK = (
    "data.source=scenes",
    "data.train_images=400",
    "data.val_images=100",
    "data.test_images=100",
    "model.image.weights=attributes",
    "pretrain.images=64",
    "pretrain.epochs=1",
    "experts.count=2",
    "experts.epochs=3",
    "experts.readers=1",
    "distill.pairs=[50]",
    "distill.outer_steps=10",
    "distill.validate_every=5",
    "evaluation.seeds=[0]",
)


def overrides_of(photographs: Path | None, whole: bool) -> list[str]:
    """The overrides of the preset.

    Args:
        photographs: a folder with `flickr8k/` and `weights/`; None: scenes.
        whole: whether the preset is not shortened.
    """
    if photographs is None:
        return [*EQUAL, *QUICK]
    return [*EQUAL, *photographs_overrides(photographs), *(UNLIMITED if whole else SHORTENED)]


def seconds_before_and_now(overrides: list[str]) -> tuple[float, float]:
    """Wall seconds of `vldd run` with both versions. The older one is checked out from the repository's history."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder, "before")
        subprocess.run(["git", "worktree", "add", "--detach", str(checkout), BEFORE], cwd=ROOT, check=True, capture_output=True)
        try:
            before = _seconds(checkout, overrides, Path(folder, "store-before"))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(checkout)], cwd=ROOT, check=True)
        return before, _seconds(ROOT, overrides, Path(folder, "store-now"))


def _seconds(checkout: Path, overrides: list[str], store: Path) -> float:
    sets = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "vldd_dist.cli", "run", "flickr8k-cpu", "--store", str(store), *sets]
    # Separate node caches, so that neither version profits from the other's.
    environment = os.environ | {"PYTHONPATH": str(checkout), "VLDD_CACHE_DIR": f"{store}-cache"}
    started = time.monotonic()
    process = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} in {checkout} ended with {process.returncode}:\n{process.stderr[-2000:]}")
    return time.monotonic() - started
