"""Distillation in the feature space of a frozen backbone: `images` are features, and the backbone is the identity.

Everything else (objectives, outer loop, students) is the package's own. Learned features need not be those of any image, so the
results are not distilled sets of images and are reported separately.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.methods.recalls import Recalls, recalls_of, recalls_of_images
from vldd_dist.applications.feature_space.part_distillation import distill_in_memory
from vldd_dist.applications.feature_space.students import Students, Trained
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.models.image.backbone import feature_size
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.pipeline.committed import missing_units
from vldd_dist.pipeline.context import StageContext, read_rows
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.in_process import run_in_process
from vldd_dist.pipeline.stages.coreset import load_candidates, method_of, select
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.pipeline.stages.shared.inputs import load_retrieval_split
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import workspace

# The kinds of units that are not run: all others are inputs of a distillation or coresets.
NOT_RUN = ("distillation", "evaluation", "publication")


@dataclass(frozen=True)
class FeatureSpace:
    """An experiment with one budget and a frozen backbone, whose data, features, experts and coresets are in a store.

    Attributes:
        unit: the distillation.
    """

    experiment: Experiment
    store: Store
    unit: WorkUnit

    @classmethod
    def prepare(cls, experiment: Experiment, store: Store) -> "FeatureSpace":
        """Run the units that the store lacks."""
        graph = Graph(experiment)
        run_in_process(missing_units(store, [unit for unit in graph.units() if unit.kind not in NOT_RUN]), store)
        (pairs,), (seed, *_) = experiment.distill.pairs, experiment.distill.seeds
        return cls(experiment, store, graph.unit("distillation", pairs, seed))

    def with_students(self, seeds: list[int]) -> "FeatureSpace":
        """The same feature space with a student for each of these seeds."""
        evaluation = self.experiment.evaluation.model_copy(update={"seeds": seeds})
        return replace(self, experiment=self.experiment.model_copy(update={"evaluation": evaluation}))

    def of_pixels(self, rows: Mapping[str, Tensor]) -> TrainingPairs:
        """Pairs in feature space from pairs with images (M, 3, H, W), values 0 to 255."""
        model = self.context.build_model(0)
        features = FrozenBackbone(model.image_backbone).features(model.normalise(rows["images"]))
        return TrainingPairs({"images": features, "texts": rows["texts"]}, len(features))

    def of_coreset(self, unit: WorkUnit) -> TrainingPairs:
        """A coreset in feature space. A pair that is a mean of real pairs has the mean of their features, as it has the mean of
        their embeddings; it is not the features of a mean of pixels."""
        rows = read_rows(UnitReader(self.store, unit.kind, unit.id), "pairs")
        if not method_of(unit).averages:
            return self.of_pixels(rows)
        features = self.split("train").inputs
        means = [features[images].mean(dim=0) for images in select(unit, load_candidates(workspace(self.store, unit)))]
        return TrainingPairs({"images": torch.stack(means), "texts": rows["texts"]}, len(means))

    @property
    def experts_seconds(self) -> float:
        """Seconds of the experts from which the distillation starts or learns; 0 if it has none."""
        experts = [unit for unit in self.unit.inputs.values() if unit.kind == "expert"]
        return sum(UnitReader(self.store, unit.kind, unit.id).manifest.seconds or 0.0 for unit in experts)

    @property
    def context(self) -> StageContext:
        return workspace(self.store, self.unit)

    def students(self) -> Students:
        """The students of an evaluation, on features. They start from the same weights as those of an evaluation with the same
        seed."""
        context, image_model = self.context, self.experiment.model.image.model
        pixels = context.build_model(0)
        dims = feature_size(pixels.image_backbone), pixels.text_dim
        return Students(context.model_settings, *dims, self.experiment.evaluation_on(image_model), context.device)

    def split(self, name: str) -> RetrievalSplit:
        """Features and embeddings of a split of the real pairs."""
        context = self.context
        return load_retrieval_split(context, context.build_model(0), name)

    def distill(self) -> tuple[TrainingPairs, float]:
        """Run the unit's distillation. Returns the pairs with the best validation, `images` (M, F), and their validation
        recall, percent."""
        context, settings, seed = self.context, self.experiment.distill.distillation_settings(), self.unit.spec["seed"]
        pixels = context.build_model(derive_seed(seed, "student"))
        pairs, rates = starting_pairs(distillation_context(context, settings, pixels))
        features = FrozenBackbone(pixels.image_backbone).features(pairs.images)
        pairs = replace(pairs, rows=pairs.rows | {"images": features})
        # The outer learning rate of images is chosen for normalised pixels, whose standard deviation is about one.
        rates = rates | {"images": rates["images"] * float(self.split("train").inputs.std(dim=0).mean())}
        students = self.students()
        inputs = distillation_context(context, settings, students.with_seed(derive_seed(seed, "student")).build())
        validating = students.with_seed(derive_seed(seed, "validation"))
        return distill_in_memory(inputs, pairs, rates, validating, self.split("val"))

    def recalls(self, pairs: TrainingPairs) -> Recalls:
        """The test recalls of a student for each evaluation seed, whose learning rate is chosen on validation."""
        validation = self.split("val")
        return self._test_recalls(lambda students: students.on_pairs(pairs, validation))

    def full_data(self, epochs: int) -> Recalls:
        """The same for students trained on all training pairs, with one caption of each image drawn anew in each epoch. SGD and
        the list of learning rates are the protocol's, the loss is that of the experts; the rate and the epoch with the best
        validation are chosen."""
        train, validation = self.split("train"), self.split("val")
        loss = self.experiment.experts.loss or self.experiment.model.loss
        model = self.experiment.model.model_copy(update={"loss": loss})
        return self._test_recalls(lambda students: students.with_model(model).on_split(train, validation, epochs))

    def _test_recalls(self, train: Callable[[Students], Trained]) -> Recalls:
        students, test = self.students(), self.split("test")
        of_seeds = [students.with_seed(seed) for seed in self.experiment.evaluation.seeds]
        batch = students.protocol.encode_batch
        return recalls_of([recalls_of_images(train(of_seed).student, test, batch) for of_seed in of_seeds])
