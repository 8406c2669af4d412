"""What a worker does for each kind of unit: open the inputs, call the room that knows how, commit."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.checkpoints import AlreadyCommitted
from vldd_dist.artifacts.row_files import concatenated, row_files_of
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.model import ModelSettings
from vldd_dist.data.dataset import Dataset
from vldd_dist.data.embeddings import CaptionEmbeddings
from vldd_dist.errors import ConfigError
from vldd_dist.events import Report, UnitReport
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageContext:
    """One unit's inputs, opened on demand, and its output; `ranks` are the processes that make it together."""

    order: UnitOrder
    store: Store
    writer: UnitWriter
    report: Report
    ranks: Ranks = SOLO
    should_stop: Callable[[], bool] = lambda: False

    @property
    def spec(self) -> dict[str, Any]:
        return self.order.spec

    @property
    def execution(self) -> dict[str, Any]:
        return self.order.execution

    def reader(self, role: str) -> UnitReader:
        kind, unit_id = self.order.inputs[role]
        return UnitReader(self.store, kind, unit_id)

    def roles(self, prefix: str) -> list[str]:
        """Roles that begin so, the numbers in them in the order of numbers: expert_999 before expert_1000."""
        return sorted((role for role in self.order.inputs if role.startswith(prefix)), key=_words_and_numbers)

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset(self.reader("dataset"))

    @cached_property
    def embeddings(self) -> CaptionEmbeddings:
        return CaptionEmbeddings.decode(self.reader("embeddings"))

    @cached_property
    def training_embeddings(self) -> CaptionEmbeddings:
        """Those of the training captions: what is made or shown as training never sees another split's."""
        return self.embeddings.restricted_to(self.dataset.distinct_captions("train"))

    @cached_property
    def device(self) -> torch.device:
        """cuda for workers that were given a GPU, unless the description says otherwise."""
        wanted = self.execution["device"]
        if wanted == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device: cuda, but {self.order.label} sees no GPU: set device: auto or give it resources.gpus")
        return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and self.order.gpus > 0) else "cpu")

    @property
    def model_settings(self) -> ModelSettings:
        return ModelSettings.model_validate(self.spec["model"])

    def build_model(self, head_seed: int) -> DualEncoder:
        """The dual encoder at its starting weights, on the worker's device."""
        weights: dict[str, Tensor] | None = None
        if "image_weights" in self.order.inputs:
            weights = read_tensors(self.reader("image_weights"), "weights.safetensors")
        model = build(self.model_settings, self.embeddings.dim, weights, head_seed)
        return model.to(self.device)


def read_tensors(reader: UnitReader, name: str) -> dict[str, Tensor]:
    """A safetensors object of a unit, verified."""
    return tensors.decode(reader.read(name), reader.url(name))


def read_rows(reader: UnitReader, name: str) -> dict[str, Tensor]:
    """Tensors of many rows that lie in one object or in parts."""
    parts = row_files_of(name, reader.manifest.objects, reader.store.url_of(reader.prefix))
    return concatenated((read_tensors(reader, part) for part in parts), reader.store.url_of(reader.prefix))


Runner = Callable[[StageContext], dict[str, Any]]


def execute(
    order: UnitOrder, store: Store, report: Report, ranks: Ranks = SOLO, should_stop: Callable[[], bool] = lambda: False
) -> None:
    """One attempt at a unit: run it and commit its manifest, unless another writer is found to have done so. Of several ranks
    all call it; the first one reports and commits what all have written. A long unit that is to stop stores where it is.

    Raises:
        VlddError: with a sentence for the user; anything else is a mistake of the program.
    """
    from vldd_dist.pipeline.stages import RUNNERS

    # The number of threads shapes the order of sums: it is part of what makes a rerun equal.
    torch.set_num_threads(max(1, int(order.cpus)))
    inputs = {role: f"{kind}/{unit_id}" for role, (kind, unit_id) in order.inputs.items()}
    writer = UnitWriter(store, order.kind, order.id, order.spec, inputs)
    try:
        facts = RUNNERS[order.kind](
            StageContext(order, store, writer, report if ranks.is_main else _nothing, ranks, should_stop)
        )
    except AlreadyCommitted as stop:
        logger.warning("%s: %s", order.label, stop)
        return
    written = ranks.all_gather(writer.objects)
    if ranks.is_main:
        for objects in written:
            writer.objects |= objects
        writer.commit(facts)


def _words_and_numbers(role: str) -> list[str | int]:
    # Every other part is a number, so that numbers meet numbers.
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", role)]


def _nothing(event: UnitReport) -> None:
    """Of several ranks one reports."""
