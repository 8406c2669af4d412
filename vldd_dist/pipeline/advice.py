"""Notes on settings that are allowed but probably not meant. A plan lists them, and a run says them when it starts."""

from collections.abc import Iterable
from contextlib import suppress

from vldd_dist.config.described import Described
from vldd_dist.config.experiment import Experiment
from vldd_dist.data.preparation.groups import limited_splits, small_splits
from vldd_dist.data.sources.scenes import Scenes
from vldd_dist.errors import MissingData
from vldd_dist.models.image.backbone import pretrained_normalisation
from vldd_dist.models.text.sentence_encoder import trained_otherwise

# A smaller difference from the pretrained mean or standard deviation is rounding.
ROUNDING = 1e-3


def advice_on(described: Described) -> list[str]:
    """The notes on an experiment or on the variants of a study, each once. Their image models exist. Of a source that is
    not here, only what follows from the limits in the description is said."""
    experiments = described.experiments.values()
    # A source may read its whole index to count its images, so each is asked once and not for each variant.
    of_data = {experiment.data.model_dump_json(): experiment for experiment in experiments}
    notes = [note for experiment in of_data.values() for note in _data(experiment)]
    checks = (_normalisation, _sentence_encoder, _augmentation, _selections)
    notes += [note for experiment in experiments for check in checks for note in check(experiment)]
    return list(dict.fromkeys(notes))


def _data(experiment: Experiment) -> Iterable[str]:
    with suppress(MissingData):
        yield from experiment.data.ignored_fractions()
        yield from limited_splits(experiment.data)
        yield from (note.removesuffix(".") for note in small_splits(experiment.data).values())


def _normalisation(experiment: Experiment) -> Iterable[str]:
    """A note for each image tower whose pixels are normalised in another way than when timm's weights were trained. Of weights
    in a file it is not known how, but often they are timm's."""
    for name in experiment.image_models():
        tower = experiment.image_tower(name)
        pretrained = None if tower.weights in ("random", "attributes") else pretrained_normalisation(name)
        if pretrained is None:
            continue
        differences = [
            abs(ours - theirs)
            for own, other in zip((tower.mean, tower.std), pretrained, strict=True)
            for ours, theirs in zip(own, other, strict=True)
        ]
        if max(differences) > ROUNDING:
            mean, std = (", ".join(f"{value:g}" for value in values) for values in pretrained)
            key = "model.image" if name == experiment.model.image.model else "evaluation.image_models"
            if tower.weights == "timm":
                yield f"{name} was pretrained with mean {mean} and std {std} ({key}.mean, .std): the description has others"
            else:
                yield (
                    f"timm's own weights of {name} were trained with mean {mean} and std {std}, and the description has others:"
                    f" if {tower.weights} has those weights, set {key}.mean and .std to them"
                )


def _sentence_encoder(experiment: Experiment) -> Iterable[str]:
    return trained_otherwise(experiment.model.text)


def _augmentation(experiment: Experiment) -> Iterable[str]:
    if experiment.experts.augment is not None and experiment.model.has_features:
        yield (
            "Experts encode augmented images in every epoch: with experts.augment: null they train on features that are "
            "computed once"
        )
    if experiment.experts.mirrors and isinstance(experiment.data.source, Scenes):
        yield "Captions of scenes say left and right, and experts.augment.flip mirrors images: set it to false"


def _selections(experiment: Experiment) -> Iterable[str]:
    experts, seeds = experiment.experts.count, len(experiment.evaluation.seeds)
    if experts < seeds and any(method.needed() for method in experiment.coresets.methods):
        yield (
            f"Coresets are selected by {experts} experts for {seeds} evaluation.seeds, so selections may repeat, and their "
            f"spread be too small: set experts.count to {seeds}, or name fewer evaluation.seeds"
        )
