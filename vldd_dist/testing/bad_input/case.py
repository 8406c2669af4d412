"""Kinds of bad input: functions that set up a case in the working directory and say how the command may end."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from vldd_dist.config.loading.load import description_path

SCENES = str(description_path("scenes"))
ANY = frozenset({0, 2, 4})
# The paths that a `fetch` to `out` may change.
TO_OUT = ("out", "out.partial")
# No server listens at this address.
NOWHERE = "http://127.0.0.1:1"


@dataclass(frozen=True)
class Case:
    """Arguments of `vldd`, the exit codes that are right, and the files in the working directory that it may create, change or
    remove. If `imports` is set, the arguments are instead a description, a store and overrides, whose source is imported."""

    arguments: list[str]
    codes: frozenset[int]
    may_change: tuple[str, ...] = ()
    imports: bool = False


Kind = Callable[[Random], Case]
KINDS: dict[str, tuple[int, Kind]] = {}


def kind(share: int) -> Callable[[Kind], Kind]:
    """Register a kind of case, about `share` of every hundred cases. It runs in the working directory."""

    def register(function: Kind) -> Kind:
        KINDS[function.__name__] = (share, function)
        return function

    return register


def importing(overrides: list[str], codes: frozenset[int]) -> Case:
    """A case that imports a small source of data."""
    small = ["data.image_size=8", "data.shard_images=2", "data.train_images=null", "data.val_images=null",
             "data.test_images=null", "model.image.weights=random", "distill.pairs=[2]", "experts.readers=1"]  # fmt: skip
    return Case([SCENES, "store", *small, *overrides], codes, ("store",), imports=True)
