"""From an experiment to the graph of its work units."""

import torch

from vldd_dist.config.experiment import Experiment
from vldd_dist.distillation.kinks import refuse_kinks
from vldd_dist.errors import ConfigError
from vldd_dist.models.image import check_backbone_name, create_backbone
from vldd_dist.models.text_architecture import find_architecture
from vldd_dist.pipeline.stage import all_stages, milestones, stage_of
from vldd_dist.pipeline.work_unit import WorkUnit, in_dependency_order


class Graph:
    """The units of an experiment, made when they are asked for.

    Args:
        dataset: of an experiment with the same data, seed and device, where it is made already.

    Raises:
        ConfigError, DataError: a source, weights file or text encoder that the description names is not there.
    """

    def __init__(self, experiment: Experiment, dataset: WorkUnit | None = None) -> None:
        self.experiment = experiment
        self._units: dict[tuple[object, ...], WorkUnit] = {("dataset",): dataset} if dataset else {}
        for name in experiment.image_models():
            check_backbone_name(name)
        _refuse_kinks(experiment)
        _check_text_encoder(experiment)
        # Everything is made here, so that what is wrong is said before anything runs.
        self._wanted = {stage.kind: [self.unit(stage.kind, *key) for key in stage.wanted(self)] for stage in all_stages()}

    def unit(self, kind: str, *key: object) -> WorkUnit:
        """The unit of a kind with a key."""
        if (kind, *key) not in self._units:
            self._units[(kind, *key)] = stage_of(kind).unit(self, *key)
        return self._units[(kind, *key)]

    def wanted(self, kind: str) -> list[WorkUnit]:
        """Units of a kind that a run ends with."""
        return self._wanted[kind]

    def units(self, until: str | None = None) -> list[WorkUnit]:
        """Every unit once, inputs first.

        Args:
            until: a milestone: units of its stage and of the stages before it, with all they need; none: everything.
        """
        if until is None or until == milestones()[-1]:
            return in_dependency_order([unit for wanted in self._wanted.values() for unit in wanted])
        kinds: list[str] = []
        for stage in all_stages():
            kinds.append(stage.kind)
            if stage.milestone == until:
                break
        else:
            raise ConfigError(f"--until {until}: choose one of {', '.join(milestones())}")
        last = [unit for unit in self.units() if unit.kind == kinds[-1]]
        return in_dependency_order(last)


def make_graph(experiment: Experiment) -> Graph:
    """The graph of an experiment; see `Graph`."""
    return Graph(experiment)


def _refuse_kinks(experiment: Experiment) -> None:
    """Before experts are trained for a distillation that would refuse the student when it starts."""
    image = experiment.model.image
    if experiment.distill.objective.wants_smooth_student() and image.train in ("full", "lora"):
        with torch.device("meta"):
            backbone = create_backbone(image.model, image.model_args, pretrained=False, seed=0)
        refuse_kinks(backbone, "image_backbone")


def _check_text_encoder(experiment: Experiment) -> None:
    """A hub that cannot be reached from here may be reached from the workers: they look again."""
    if find_architecture(experiment.model.text, ask_hub=False) is None:
        find_architecture(experiment.model.text, ask_hub=True)
