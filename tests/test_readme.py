"""The README's example runs on a set that a real run published, in a process without the training libraries."""

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vldd_dist.distilled_set import distilled
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import NearestCaptions, Recipe
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.models.losses.wbce import WeightedBCE

RECIPE = Recipe(
    image_model="test_nfnet", image_model_args={}, image_weights="random", image_train="full", image_head="none", image_size=16,
    mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), text_encoder={"model": "minilm"}, text_head="projection", joint_dim=None,
    loss={"name": "infonce", "temperature": 0.07}, epochs=3, batch_size=4, learning_rate=0.01, momentum=0.9, weight_decay=0.0,
)  # fmt: skip


def distilled_set(pairs: int = 5) -> DistilledSet:
    generator = torch.Generator().manual_seed(0)
    return DistilledSet(
        rows={
            "images": torch.randn(pairs, 3, 16, 16, generator=generator),
            "texts": torch.randn(pairs, 8, generator=generator),
        },
        shared={"log_rates": torch.tensor([0.1, 0.2]).log()},
        learned={"inner_lr_image": 0.1, "inner_lr_text": 0.2},
        recipe=RECIPE,
        captions=[NearestCaptions(before="a", after="b", similarity=0.5)] * pairs,
    )


def with_similarity(similarity: dict[str, Any]) -> DistilledSet:
    """A set with a learned similarity at its starting values."""
    loss, shown = WeightedBCE(similarity=similarity), distilled_set()
    shown.rows |= {name: one.start for name, one in loss.learned_rows(range(len(shown)), len(shown)).items()}
    shown.recipe = RECIPE.model_copy(update={"loss": loss.model_dump(mode="json")})
    return shown


SETS = {
    "infonce": distilled_set,
    "low rank": lambda: with_similarity({"kind": "low_rank", "rank": 2}),
    "full": lambda: with_similarity({"kind": "full"}),
}


# The only installed packages that can be imported: these and their requirements, which suffice to load a set and train on it.
PRESENT = ("torch", "numpy", "safetensors", "fsspec", "pydantic", "tenacity")
FINDER = """
import sys
from importlib.machinery import PathFinder
class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyThese()
"""


def _distributions_needed(names: Iterable[str]) -> set[str]:
    """The packages and everything that they require directly or indirectly, without extras."""
    needed, left = set(), list(names)
    while left:
        name = canonicalize_name(left.pop())
        if name not in needed:
            needed.add(name)
            requirements = map(Requirement, _requires(name))
            left += [need.name for need in requirements if need.marker is None or need.marker.evaluate({"extra": ""})]
    return needed


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def test_the_docstring_names_the_packages_that_a_set_needs() -> None:
    (named,) = re.findall(r"It needs (.*): no training library", distilled.__doc__ or "")
    assert set(re.split(r", | and ", named)) == set(PRESENT)


def test_the_example_trains_where_only_the_named_packages_are(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    present = _distributions_needed(PRESENT) | {"vldd-dist"}
    absent = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not present & {canonicalize_name(name) for name in distributions}
    }
    assert {"ray", "deepspeed", "timm", "transformers", "webdataset", "s3fs", "PIL", "yaml", "typer"} <= absent
    program = f"ABSENT = {sorted(absent)}\n{FINDER}"
    for name, made in SETS.items():
        save(made(), str(tmp_path / name))
        program += code.replace('"URL"', repr(str(tmp_path / name)))
        program += "\nprint(losses[-1] > 0, sorted(set(ABSENT) & set(sys.modules)))\ndel losses\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["True []"] * len(SETS)
