"""The context in which a stage runs: the inputs of its unit, opened when they are first used, and a writer for its output."""

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.row_files import concatenated, row_files_of
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import Section
from vldd_dist.config.sections.model import ImageTowerSettings, ModelSettings
from vldd_dist.data.facts import CaptionEmbeddingsFacts
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.data.prepared.pieces import Pieces
from vldd_dist.errors import UnusableHere
from vldd_dist.events import SendReport
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import MissingObject, Store

SectionType = TypeVar("SectionType", bound=Section)
# About what CUDA's context and its libraries take of a GPU for one process, in bytes.
OUTSIDE_THE_ALLOCATOR = 1 << 30


@dataclass(frozen=True)
class StageContext:
    """The inputs of one unit, opened on demand, and its output.

    Attributes:
        ranks: the processes that make the unit together.
        should_stop: whether the unit was asked to store a checkpoint and end.
    """

    order: UnitOrder
    store: Store
    writer: UnitWriter
    report: SendReport
    ranks: Ranks = SOLO
    should_stop: Callable[[], bool] = lambda: False

    @property
    def spec(self) -> dict[str, Any]:
        return self.order.spec

    @property
    def execution(self) -> dict[str, Any]:
        return self.order.execution

    def reader(self, role: str) -> UnitReader:
        """The committed unit that is the input `role`.

        Raises:
            UnusableHere: it is not there, although another machine has committed it.
        """
        kind, unit_id = self.order.inputs[role]
        try:
            return UnitReader(self.store, kind, unit_id)
        except MissingObject as error:
            raise UnusableHere(
                f"{error} on the machine {platform.node()}, although this input of the unit was committed: give every machine "
                "the same store, or run the same command again if the input was removed"
            ) from None

    def roles(self, prefix: str) -> list[str]:
        """Roles that begin with the prefix, sorted so that numbers in them are in numerical order: expert_999, expert_1000."""
        return sorted((role for role in self.order.inputs if role.startswith(prefix)), key=_words_and_numbers)

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset(self.reader("dataset"))

    @cached_property
    def embeddings(self) -> CaptionEmbeddings:
        index = self.reader("embeddings")
        dim = index.facts_as(CaptionEmbeddingsFacts).dim
        return CaptionEmbeddings(self.dataset.splits, Pieces(index, "embedding_group"), dim)

    @cached_property
    def image_features(self) -> ImageFeatures | None:
        """The stored features of a frozen image backbone; None if the unit passes its images through the backbone itself."""
        if "image_features" not in self.order.inputs:
            return None
        return ImageFeatures(self.dataset.splits, Pieces(self.reader("image_features"), "feature_group"))

    @cached_property
    def device(self) -> torch.device:
        """cuda if the worker was given a GPU and the description does not say `device: cpu`, else cpu."""
        if self.order.device == "cpu" or not self.order.worker_gpus:
            return torch.device("cpu")
        if self.order.worker_gpus < 1:
            # Otherwise the allocator of one process may take the whole GPU, and its neighbour runs out of memory. The limit is
            # that of the allocator only, so what CUDA itself takes for the process is subtracted: at most half of the share.
            beside = OUTSIDE_THE_ALLOCATOR / torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(max(self.order.worker_gpus - beside, self.order.worker_gpus / 2))
        return torch.device("cuda")

    def settings(self, section: type[SectionType], name: str) -> SectionType:
        """A section of the description: fields that determine the output are in `spec[name]`, the others in `execution`."""
        return section.model_validate(self.spec[name] | self.execution_of(section))

    def execution_of(self, section: type[Section]) -> dict[str, Any]:
        """The fields of a section that say how to run the unit and do not affect its output."""
        return {name: self.execution[name] for name in section.execution_names()}

    @property
    def model_settings(self) -> ModelSettings:
        return model_settings_of(self.order)

    def build_model(self, head_seed: int) -> DualEncoder:
        """The dual encoder with its starting weights, on the worker's device."""
        weights: dict[str, Tensor] | None = None
        if "image_weights" in self.order.inputs:
            weights = read_tensors(self.reader("image_weights"), "weights.safetensors")
        model = build(self.model_settings, self.embeddings.dim, weights, head_seed)
        return model.to(self.device)


def model_settings_of(unit: WorkUnit | UnitOrder) -> ModelSettings:
    """The dual encoder of a unit: `model` in its spec and, in its execution (`model_execution`), how the image tower runs and
    the loss with all its settings."""
    model = unit.spec["model"]
    how_to_run = {name: unit.execution[name] for name in ImageTowerSettings.execution_names()}
    return ModelSettings.model_validate(model | {"image": model["image"] | how_to_run, "loss": unit.execution["loss"]})


def read_tensors(reader: UnitReader, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors object of a unit, after its digest was checked."""
    return tensors.decode(reader.read(name), reader.url(name))


def read_rows(reader: UnitReader, name: str) -> dict[str, Tensor]:
    """Tensors whose rows are stored in one object or, if several ranks wrote them, in one object for each rank."""
    parts = row_files_of(name, reader.manifest.objects, reader.store.url_of(reader.prefix))
    return concatenated((read_tensors(reader, part) for part in parts), reader.store.url_of(reader.prefix))


def _words_and_numbers(role: str) -> list[str | int]:
    # The parts alternate between text and number, so that sorting compares numbers with numbers only.
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", role)]
