"""The distillations that `benchmarks.methods` compares, and the file that stores their figures."""

import ast
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.methods.budget import counted_bytes
from benchmarks.methods.feature_space import FeatureSpace
from vldd_dist.config.experiment import Experiment
from vldd_dist.store.store import Store

ROOT = Path(__file__).parents[2]
# Folders and files with the code of a distillation in feature space and of its students.
CODE = (
    "benchmarks/methods",
    "vldd_dist/applications",
    "vldd_dist/data/medoids.py",
    "vldd_dist/data/prepared",
    "vldd_dist/distillation",
    "vldd_dist/evaluation",
    "vldd_dist/models",
    "vldd_dist/retrieval",
    "vldd_dist/seeding.py",
    "vldd_dist/sharding",
    "vldd_dist/training_loop.py",
)


@dataclass(frozen=True)
class MethodRun:
    """One distillation, evaluated by students on the test split.

    Attributes:
        budget: the number of plain pairs that take as many bytes.
        outer_steps: outer steps of the distillation. Methods may differ in them.
        rate: the outer learning rates as a multiple of the preset's.
        seed: seed of the distillation.
        validation: mean of six validation recalls of the pairs with the best validation, percent.
        recalls: mean of six test recalls for each student, percent.
        images: the same for each test image (`Recalls.images`).
        size: size of the pairs, bytes.
        seconds: CPU seconds, including the validations.
    """

    method: str
    pairs: int
    budget: int
    outer_steps: int
    rate: float
    seed: int
    validation: float
    recalls: list[float]
    images: list[float]
    size: int
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.recalls)


def digest_of_code(root: Path = ROOT) -> str:
    """A sha256 of the code on which the figures depend, apart from that of the units, whose ids contain their stages' versions.
    Comments and the layout of the code are not part of it."""
    digest = sha256()
    for entry in CODE:
        paths = [root / entry] if entry.endswith(".py") else (root / entry).rglob("*.py")
        for path in sorted(path for path in paths if path.exists()):
            digest.update(f"{path.relative_to(root)} {ast.dump(ast.parse(path.read_text()))}\n".encode())
    return digest.hexdigest()


class KeptFigures:
    """Figures in a file with one JSON object per line, so that none is measured twice by the same code. Processes may share the
    file.

    Args:
        code: digest of the code (`digest_of_code`). Figures that were stored with another one are measured again.
    """

    def __init__(self, file: Path, code: str) -> None:
        self.file, self.code = file, code

    def once(self, name: str, space: FeatureSpace, measure: Callable[[], Any]) -> Any:
        """The stored result of `measure` for this experiment, name and code; if there is none, `measure` is called."""
        description = f"{name} {space.unit.id} {space.experiment.evaluation.model_dump_json()}"
        key = sha256(description.encode()).hexdigest()[:16]
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        for stored in map(json.loads, lines):
            if (stored["key"], stored.get("code")) == (key, self.code):
                return stored["figures"]
        figures = measure()
        with self.file.open("a") as file:
            file.write(json.dumps({"key": key, "code": self.code, "name": name, "figures": figures}) + "\n")
        return figures


def method_run(
    kept: KeptFigures, store: Store, method: str, experiment: Experiment, budget: int, rate: float, seed: int
) -> MethodRun:
    """One distillation with this seed, and with the outer learning rates of images and texts multiplied by `rate`."""
    distill = experiment.distill
    update = {"lr_images": distill.lr_images * rate, "lr_texts": distill.lr_texts * rate, "seeds": [seed]}
    experiment = experiment.model_copy(update={"distill": distill.model_copy(update=update)})
    space = FeatureSpace.prepare(experiment, store)

    def measure() -> dict[str, Any]:
        started = time.process_time()
        pairs, validation = space.distill()
        seconds = time.process_time() - started
        count, size, recalls = len(pairs.rows["texts"]), counted_bytes(pairs.rows), space.recalls(pairs)
        return asdict(MethodRun(method, count, budget, distill.outer_steps, rate, seed, validation, *recalls, size, seconds))

    return MethodRun(**kept.once(method, space, measure))
