"""A kind of bad input: a function that lays a case out in the working directory and says how the command may end."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from vldd_dist.config.loading.load import description_path

SCENES = str(description_path("scenes"))
ANY = frozenset({0, 2, 4})
# Where a `fetch` to `out` may work.
TO_OUT = ("out", "out.partial")
# Nothing listens there.
NOWHERE = "http://127.0.0.1:1"


@dataclass(frozen=True)
class Case:
    """Arguments of `vldd` (of `import`: description, store, overrides), the exit codes that are right, and which files below
    the working directory it may make, change or remove."""

    arguments: list[str]
    codes: frozenset[int]
    may_change: tuple[str, ...] = ()
    imports: bool = False


Kind = Callable[[Random], Case]
KINDS: dict[str, tuple[int, Kind]] = {}


def kind(share: int) -> Callable[[Kind], Kind]:
    """Register a kind of case, `share` of every hundred or so. It runs in the working directory."""

    def register(function: Kind) -> Kind:
        KINDS[function.__name__] = (share, function)
        return function

    return register


def importing(overrides: list[str], codes: frozenset[int]) -> Case:
    """The import of a source of data, small."""
    small = ["data.image_size=8", "data.shard_images=2", "data.train_images=null", "data.val_images=null",
             "data.test_images=null", "model.image.weights=random", "distill.pairs=[1]", "experts.readers=1"]  # fmt: skip
    return Case([SCENES, "store", *small, *overrides], codes, ("store",), imports=True)
