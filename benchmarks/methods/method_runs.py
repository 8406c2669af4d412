"""The distillations that `benchmarks.methods` compares, and the file that stores their figures."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.methods.feature_space import FeatureSpace
from vldd_dist.applications.parts import set_bytes
from vldd_dist.config.experiment import Experiment
from vldd_dist.store.store import Store


@dataclass(frozen=True)
class MethodRun:
    """One distillation, evaluated by students on the test split.

    Attributes:
        rate: the outer learning rates as a multiple of the preset's.
        seed: seed of the distillation.
        validation: mean of six validation recalls of the pairs with the best validation, percent.
        recalls: mean of six test recalls for each student, percent.
        size: size of the pairs, bytes.
        seconds: CPU seconds, including the validations.
    """

    method: str
    pairs: int
    rate: float
    seed: int
    validation: float
    recalls: list[float]
    size: int
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.recalls)


class KeptFigures:
    """Figures in a file with one JSON object per line, so that none is measured twice. Processes may share the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def once(self, name: str, space: FeatureSpace, measure: Callable[[], Any]) -> Any:
        """The stored result of `measure` for this experiment and name; if there is none, `measure` is called."""
        description = f"{name} {space.unit.id} {space.experiment.evaluation.model_dump_json()}"
        key = sha256(description.encode()).hexdigest()[:16]
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        for stored in map(json.loads, lines):
            if stored["key"] == key:
                return stored["figures"]
        figures = measure()
        with self.file.open("a") as file:
            file.write(json.dumps({"key": key, "name": name, "figures": figures}) + "\n")
        return figures


def method_run(kept: KeptFigures, store: Store, method: str, experiment: Experiment, rate: float, seed: int) -> MethodRun:
    """One distillation with this seed, and with the outer learning rates of images and texts multiplied by `rate`."""
    distill = experiment.distill
    update = {"lr_images": distill.lr_images * rate, "lr_texts": distill.lr_texts * rate, "seeds": [seed]}
    experiment = experiment.model_copy(update={"distill": distill.model_copy(update=update)})
    space = FeatureSpace.prepare(experiment, store)

    def measure() -> dict[str, Any]:
        started = time.process_time()
        pairs, validation = space.distill()
        seconds = time.process_time() - started
        size, budget = set_bytes(pairs.rows), experiment.distill.pairs[0]
        return asdict(MethodRun(method, budget, rate, seed, validation, space.recalls(pairs), size, seconds))

    return MethodRun(**kept.once(method, space, measure))
