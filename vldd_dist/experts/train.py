"""Training one expert: SGD on all real pairs, with a snapshot every epoch (Wu et al. 2308.07545, 3.2).

After each epoch the parameters, momentum, counts and curves are saved as a checkpoint while the next epoch trains. A restarted
expert resumes from the newest checkpoint. Every random draw derives from (seed, expert, epoch), so a resumed expert ends with
the same bits. With several ranks, each computes its rows of every batch and holds its shards.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.data.prepared.batches.image_cache import DecodedImages
from vldd_dist.data.prepared.batches.stream import EpochStream, StreamSettings
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.data.prepared.image_features import ImageFeatures
from vldd_dist.errors import DivergenceError
from vldd_dist.events import Progress, SendReport
from vldd_dist.experts.forgetting import ForgettingCounts
from vldd_dist.experts.state import ExpertState
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import frozen_backbone
from vldd_dist.models.losses import Loss
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, measure
from vldd_dist.seeding import derive_seed, seeded
from vldd_dist.sharding.engines.sharded_model import shard_model
from vldd_dist.sharding.engines.skeleton import Skeleton
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.async_writer import AsyncWriter


@dataclass
class Curves:
    """An expert's curves.

    Attributes:
        loss: mean over the steps of an epoch, which count the same whatever their batch sizes; from epoch 1.
        validation: recalls in percent by metric; from epoch 0, before training.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ExpertInputs:
    """Data and model of an expert.

    Attributes:
        model: with its starting weights, on its device, equal on all ranks.
        features: the images' features by a frozen backbone, if they are the same in every epoch; None: images go through the
            backbone.
    """

    model: DualEncoder
    dataset: Dataset
    embeddings: CaptionEmbeddings
    features: ImageFeatures | None
    validation: RetrievalSplit
    loss: Loss
    device: torch.device
    ranks: Ranks = SOLO


class ExpertTraining:
    """One expert. `run()` trains from the newest checkpoint, or from the start, to the last epoch.

    Args:
        seed: the experiment's seed; every random draw derives from it, the index and the epoch.
        index: the expert's number.
        kept_epochs: the epochs whose snapshots the trajectory keeps.
        encode_batch: images in a forward pass when recall is measured.
    """

    def __init__(
        self,
        inputs: ExpertInputs,
        settings: ExpertSettings,
        *,
        seed: int,
        index: int,
        kept_epochs: list[int],
        encode_batch: int,
        writer: UnitWriter,
        report: SendReport,
    ) -> None:
        self.inputs, self.settings, self.writer, self.report = inputs, settings, writer, report
        self.seed, self.index, self.kept_epochs, self.encode_batch = seed, index, kept_epochs, encode_batch
        view = ParameterView(inputs.model)
        optimiser = torch.optim.SGD(
            [
                {"params": parameters, "lr": rate}
                for tower, rate in (("image", settings.lr_image), ("text", settings.lr_text))
                if (parameters := view.parameters_of(tower))
            ],
            lr=settings.lr_image,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        inputs.model.bf16_backbone = settings.precision == "bf16"
        # Both are made before the model is sharded.
        self.frozen_backbone, skeleton = frozen_backbone(inputs.model), Skeleton(inputs.model)
        self.engine = shard_model(inputs.model, optimiser, settings.sharding, inputs.ranks)
        self.state = ExpertState(self.engine, inputs.model, skeleton, writer, inputs.ranks)
        self.curves = Curves()
        split = inputs.dataset.splits["train"]
        self.entries = split.images if settings.captions == "one" else split.captions
        self.forgetting = ForgettingCounts.empty(self.entries)
        self.decoded = None if inputs.features else DecodedImages.of(inputs.dataset, "train", settings.cache_mib << 20)

    def run(self) -> Curves:
        """Train all epochs, or those that the newest checkpoint lacks.

        Raises:
            DivergenceError: the loss became NaN or infinite.
        """
        restored = self.state.restore()
        # Uploads run in the background, one at a time and in order, while the next epoch trains.
        with AsyncWriter() as uploads:
            if restored is None:
                self._finish_epoch(0, uploads)
                first = 1
            else:
                epoch, self.forgetting, facts = restored
                self.curves = Curves(facts["loss"], facts["validation"])
                first = epoch + 1
            for epoch in range(first, self.settings.epochs + 1):
                self._run_epoch(epoch, uploads)
                self._finish_epoch(epoch, uploads)
        for name, info in self.state.snapshots.items():
            self.writer.adopt(name, info)
        if self.inputs.ranks.is_main:
            self.writer.put("forgetting.safetensors", tensors.encode(self._forgetting_of_images().as_tensors()))
        return self.curves

    def _run_epoch(self, epoch: int, uploads: AsyncWriter) -> None:
        inputs, model, ranks = self.inputs, self.inputs.model, self.inputs.ranks
        model.train()
        losses, started, done = [], time.monotonic(), 0
        with seeded(derive_seed(self.seed, "expert", self.index, "dropout", epoch), inputs.device):
            for image_inputs, texts, entries in self._batches(epoch):
                uploads.check()
                model.gather_rows = ranks.rows_gatherer(len(entries))
                image_features, text_features = self.engine(image_inputs, texts)
                loss = inputs.loss(image_features, text_features)
                self.engine.step(loss / ranks.world_size)
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise DivergenceError(
                        f"expert {self.index}: the loss is {losses[-1]} in epoch {epoch}: "
                        "lower experts.lr_image or experts.lr_text"
                    )
                self._count_forgetting(image_features.detach(), text_features.detach(), entries)
                done += len(entries)
                self.report(
                    Progress(
                        done=(epoch - 1) * self.entries + done,
                        total=self.settings.epochs * self.entries,
                        epoch=epoch,
                        loss=losses[-1],
                        samples_per_second=done / (time.monotonic() - started),
                    )
                )
        self.curves.loss.append(sum(losses) / len(losses))

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        inputs, settings = self.inputs, self.settings
        stream = EpochStream(
            inputs.embeddings,
            inputs.features or inputs.dataset,
            "train",
            StreamSettings(settings.batch_size, settings.augment, settings.readers, settings.captions),
            seed=derive_seed(self.seed, "expert", self.index),
            epoch=epoch,
            decoded=self.decoded,
            rows=inputs.ranks.rows_to_compute,
        )
        for batch in stream:
            images = batch.images.to(inputs.device)
            if inputs.features is None:
                images = inputs.model.normalise(images)
                images = images if self.frozen_backbone is None else self.frozen_backbone.features(images)
            yield images, batch.texts.to(inputs.device), batch.entries

    def _count_forgetting(self, image_features: Tensor, text_features: Tensor, entries: Tensor) -> None:
        # In a batch of one, each image ranks its caption first, whatever was learned.
        if len(entries) == 1:
            return
        similarity = cosines(image_features, text_features)
        own = torch.arange(len(entries), device=similarity.device)
        self.forgetting.visit(entries, (similarity.argmax(dim=1) == own).cpu())

    def _forgetting_of_images(self) -> ForgettingCounts:
        if self.settings.captions == "one":
            return self.forgetting
        captions = self.inputs.dataset.captions("train")
        return self.forgetting.of_images([len(of_image) for of_image in captions])

    def _finish_epoch(self, epoch: int, uploads: AsyncWriter) -> None:
        """Measure validation recall and save the epoch's checkpoint, in the background and from copies made here."""
        with self.state.whole() as model:
            recall = measure(model, self.inputs.validation, self.encode_batch, self.inputs.ranks)
        self.curves.validation.append(recall.as_dict())
        facts = {"loss": list(self.curves.loss), "validation": list(self.curves.validation)}
        self.state.save(epoch, epoch in self.kept_epochs, self.forgetting, facts, uploads)
