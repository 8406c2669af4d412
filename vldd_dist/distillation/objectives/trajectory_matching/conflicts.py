"""Settings of trajectory matching that do not work with others of the experiment; one sentence for each conflict."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vldd_dist.distillation.objectives.trajectory_matching.settings import TrajectoryMatchingSettings
from vldd_dist.models.parameters import TOWERS

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment

KEY = "distill.objective"


def conflicts_of(settings: TrajectoryMatchingSettings, experiment: "Experiment") -> list[str]:
    """All of these sentences, except those of every unrolled objective."""
    return [
        *_of_experts(settings, experiment),
        *_of_starts(settings, experiment),
        *_of_loss(settings, experiment),
        *_of_blending(settings, experiment),
    ]


def _of_experts(settings: TrajectoryMatchingSettings, experiment: "Experiment") -> Iterator[str]:
    experts = experiment.experts
    if settings.min_experts is not None and settings.min_experts > experts.count:
        yield (
            f"{KEY}.min_experts ({settings.min_experts}) is more than experts.count ({experts.count}): lower it or train more"
        )
    if settings.min_start_epoch > settings.max_start_epoch:
        yield (
            f"{KEY}.min_start_epoch ({settings.min_start_epoch}) is more than {KEY}.max_start_epoch "
            f"({settings.max_start_epoch}): lower it or raise the other"
        )
        return
    matched = settings.matched_epochs()
    if (last := max(matched)) > experts.epochs:
        start = last - settings.expert_epochs
        name = f"{KEY}.max_start_epoch ({start})" if start == settings.max_start_epoch else f"the last start ({start})"
        yield (
            f"{name} + {KEY}.expert_epochs ({settings.expert_epochs}) = {last} is more than experts.epochs "
            f"({experts.epochs}): lower {KEY}.max_start_epoch or {KEY}.expert_epochs, or train longer"
        )
    if settings.shortcut is None:
        return
    first, shortcut = min(matched), settings.shortcut_epochs()
    if not matched <= set(shortcut):
        yield (
            f"{KEY}.shortcut goes from epoch {shortcut.start} to {shortcut.stop - 1}, but {first} to {last} are matched: set "
            f"{KEY}.shortcut.first_epoch to at most {first} and last_epoch to at least {last}, or leave both out"
        )
    elif shortcut[-1] > experts.epochs:
        yield (
            f"{KEY}.shortcut.last_epoch ({shortcut[-1]}) is more than experts.epochs ({experts.epochs}): lower it or train "
            "longer"
        )


def _of_starts(settings: TrajectoryMatchingSettings, experiment: "Experiment") -> Iterator[str]:
    frozen = [tower for tower in TOWERS if getattr(experiment.model, tower).train == "frozen"]
    if settings.asynchronous is not None and frozen:
        yield (
            f"{KEY}.asynchronous draws separate starts for two towers, but with model.{frozen[0]}.train: frozen only one is "
            "trained: leave it out"
        )


def _of_loss(settings: TrajectoryMatchingSettings, experiment: "Experiment") -> Iterator[str]:
    loss = experiment.model.loss
    try:
        settings.inner_loss(loss)
    except ValueError as error:
        yield f"{KEY}.temperature: model.loss: {loss.name} {error}: leave {KEY}.temperature out, or change model.loss"


def _of_blending(settings: TrajectoryMatchingSettings, experiment: "Experiment") -> Iterator[str]:
    image = experiment.model.image
    if settings.blend is not None and not image.freezes_backbone:
        yield (
            f"{KEY}.blend mixes the features of a frozen backbone, but model.image.train: {image.train} trains the backbone: "
            f"set model.image.train to head, or leave {KEY}.blend out"
        )
    heads = image.head.kind, experiment.model.text.head.kind
    if settings.blend is not None and image.freezes_backbone and heads[0] != heads[1]:
        yield (
            f"{KEY}.blend needs the same kind of head on both towers, but model.image.head.kind is {heads[0]} and "
            f"model.text.head.kind is {heads[1]}: set one to the other, or leave {KEY}.blend out"
        )
