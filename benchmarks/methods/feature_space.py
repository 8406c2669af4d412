"""Distillation in the feature space of a frozen backbone: `images` are features, and the backbone is the identity.

Everything else (objectives, outer loop, students) is the package's own. Learned features need not be those of any image, so the
results are not distilled sets of images and are reported separately.
"""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vldd_dist.applications.students import FeatureBackbone
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.experiment import Experiment
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.evaluation.evaluator import Evaluator, TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder, redraw_heads
from vldd_dist.models.image.backbone import feature_size
from vldd_dist.models.image.frozen_tower import FrozenTower
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.graphs.experiment import make_graph
from vldd_dist.pipeline.inputs import load_retrieval_split
from vldd_dist.pipeline.stages.distillation import run_context
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.retrieval.encode import RetrievalSplit, measure
from vldd_dist.seeding import derive_seed
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import run, workspace

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
        graph = make_graph(experiment)
        run(store, [unit for unit in graph.units() if unit.kind not in NOT_RUN])
        (pairs,), (seed, *_) = experiment.distill.pairs, experiment.distill.seeds
        return cls(experiment, store, graph.unit("distillation", pairs, seed))

    def with_students(self, seeds: list[int]) -> "FeatureSpace":
        """The same feature space with a student for each of these seeds."""
        evaluation = self.experiment.evaluation.model_copy(update={"seeds": seeds})
        return replace(self, experiment=self.experiment.model_copy(update={"evaluation": evaluation}))

    def of_pixels(self, rows: Mapping[str, Tensor]) -> TrainingPairs:
        """Pairs in feature space from pairs with images (M, 3, H, W), values 0 to 255."""
        model = self.context.build_model(0)
        features = FrozenTower(model.image_backbone).features(model.normalise(rows["images"]))
        return TrainingPairs({"images": features, "texts": rows["texts"]}, len(features))

    @property
    def context(self) -> StageContext:
        return workspace(self.store, self.unit)

    def student(self, context: StageContext, seed: int) -> DualEncoder:
        """A student on features, whose heads are drawn by the seed."""
        pixels = context.build_model(0)
        model = DualEncoder(FeatureBackbone(feature_size(pixels.image_backbone)), context.model_settings, pixels.text_dim)
        redraw_heads(model.heads, seed)
        return model.eval()

    def evaluator(self, context: StageContext, seed: int) -> Evaluator:
        """The evaluator of an evaluation with this seed."""
        base = self.student(context, derive_seed(seed, "head"))
        settings = self.experiment.evaluation_on(self.experiment.model.image.model)
        return Evaluator(lambda: copy.deepcopy(base), settings, context.model_settings.loss, seed)

    def distil(self) -> tuple[TrainingPairs, float]:
        """Run the unit's distillation. Returns the pairs with the best validation, `images` (M, F), and their validation
        recall, percent."""
        context, settings = self.context, self.experiment.distill.run_settings()
        pixels = context.build_model(derive_seed(self.unit.spec["seed"], "student"))
        pairs, rates = starting_pairs(run_context(context, settings, pixels))
        features = FrozenTower(pixels.image_backbone).features(pairs.images)
        pairs = replace(pairs, rows=pairs.rows | {"images": features})
        student = self.student(context, derive_seed(self.unit.spec["seed"], "student"))
        inputs = run_context(context, settings, student)
        # The outer learning rate of images is chosen for normalised pixels, whose standard deviation is about one.
        spread = float(context.image_features.of_split("train").std(dim=0).mean()) if context.image_features else 1.0
        rates = rates | {"images": rates["images"] * spread}
        evaluator = self.evaluator(context, derive_seed(self.unit.spec["seed"], "validation"))
        validation = load_retrieval_split(context, student, "val")

        def validate(current: SyntheticPairs) -> float:
            training_pairs = TrainingPairs(current.rows, len(current), shared=current.shared)
            return evaluator.choose(training_pairs, validation).recall.mean

        with tempfile.TemporaryDirectory() as folder, settings.objective.open(inputs) as problem:
            writer = UnitWriter(Store(folder), "distillation", "0", {}, {})
            distillation = Distillation(problem, pairs, rates, inputs, validate=validate, writer=writer)
            facts = distillation.run()
        return TrainingPairs(distillation.best.rows, len(pairs), shared=distillation.best.shared), facts["best_validation"]

    def recalls(self, pairs: TrainingPairs) -> list[float]:
        """The mean of the six test recalls, percent, of a student for each evaluation seed, whose learning rate is chosen on
        validation."""
        context = self.context
        validation, test = (load_retrieval_split(context, self.student(context, 0), split) for split in ("val", "test"))
        means = []
        for seed in self.experiment.evaluation.seeds:
            choice = self.evaluator(context, seed).choose(pairs, validation)
            means.append(measure(choice.student, test, 128).mean)
        return means

    def full_data(self, epochs: int) -> list[float]:
        """The same for students trained on all training pairs, with one caption of each image drawn anew in each epoch. SGD and
        the list of learning rates are the protocol's; the rate and the epoch with the best validation are chosen."""
        context = self.context
        features, (texts, image_of_caption) = context.image_features, context.embeddings.of_split("train")
        assert features is not None
        images = features.of_split("train")
        first = torch.searchsorted(image_of_caption, torch.arange(len(images) + 1))
        validation, test = (load_retrieval_split(context, self.student(context, 0), split) for split in ("val", "test"))
        return [
            self._best_of_full_data(context, seed, (images, texts, first), validation, test, epochs)
            for seed in self.experiment.evaluation.seeds
        ]

    def _best_of_full_data(
        self,
        context: StageContext,
        seed: int,
        data: tuple[Tensor, Tensor, Tensor],
        validation: RetrievalSplit,
        test: RetrievalSplit,
        epochs: int,
    ) -> float:
        images, texts, first = data
        evaluator = self.evaluator(context, seed)
        best = (-1.0, -1.0)
        for rate in evaluator.settings.learning_rates:
            student, generator = evaluator.build_student(), torch.Generator().manual_seed(seed)
            optimiser = torch.optim.SGD(
                [p for p in student.parameters() if p.requires_grad],
                lr=rate,
                momentum=evaluator.settings.momentum,
                weight_decay=evaluator.settings.weight_decay,
            )
            torch.manual_seed(seed)
            for _ in range(epochs):
                student.train()
                for chosen in torch.randperm(len(images), generator=generator).split(evaluator.settings.batch_size):
                    counts = first[chosen + 1] - first[chosen]
                    captions = first[chosen] + (torch.rand(len(chosen), generator=generator) * counts).long()
                    loss = evaluator.loss(*student(images[chosen], texts[captions]))
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                validated = measure(student, validation, 128).mean
                if validated > best[0]:
                    best = validated, measure(student, test, 128).mean
        return best[1]


def set_bytes(rows: Mapping[str, Tensor]) -> int:
    """The size of the pairs: bytes of all row tensors."""
    return sum(tensor.nbytes for tensor in rows.values())
