"""The typed description of an experiment: one YAML file, unknown keys refused, checked as a whole before anything runs."""

import difflib
import math
import reprlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from vldd_dist import strict_yaml
from vldd_dist.errors import ConfigError
from vldd_dist.settings import (
    SCENES_BY_DEFAULT,
    CoresetSettings,
    DataSettings,
    DistillSettings,
    EmbeddingSettings,
    EvaluationSettings,
    ExpertSettings,
    ModelSettings,
    Positive,
    PretrainSettings,
    Section,
    Seed,
)

# Each of a run's units is known to its driver.
MOST_UNITS = 1_000_000
MOST_BYTES = 1 << 18
SHORT = 200
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


class Experiment(Section):
    """Everything one experiment depends on; `orchestration.plan` turns it into work units."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100, description="Short name: lower-case letters, digits, dashes."
    )
    seed: Seed = Field(0, description="Root of all randomness.")
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    pretrain: PretrainSettings = PretrainSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    experts: ExpertSettings = ExpertSettings()
    distill: DistillSettings = DistillSettings()
    coresets: CoresetSettings = CoresetSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda for workers that ask for a GPU, else cpu.")
    stall_timeout_seconds: Positive | None = Field(
        None,
        description="A unit that reports nothing for so long is ended and tried again, on another machine "
        "if there is one; none: never. Well above the longest time between two reports, a validation's for instance.",
    )

    @model_validator(mode="after")
    def _sections_agree(self) -> "Experiment":
        for problem in (*_data_problems(self.data), *_model_problems(self), *_distill_problems(self), *_size_problems(self)):
            raise ValueError(problem)
        return self


def _data_problems(data: DataSettings) -> list[str]:
    required = {"scenes": (), "karpathy": ("annotations", "images"), "shards": ("train", "val", "test")}[data.source]
    return [
        f"data.{key} is needed when data.source is {data.source}: set it in the file or with --set data.{key}=..."
        for key in required
        if getattr(data, key) is None
    ]


def _model_problems(experiment: Experiment) -> list[str]:
    image, text = experiment.model.image, experiment.model.text
    problems = []
    if image.weights == "attributes" and experiment.data.source != "scenes":
        problems.append(
            "model.image.weights: attributes belongs to data.source: scenes; name a .safetensors file, timm or random"
        )
    for tower, settings in (("image", image), ("text", text)):
        if settings.train == "frozen" and settings.head.kind != "none":
            problems.append(
                f"model.{tower}.train: frozen would freeze a random head; set model.{tower}.head.kind to none or train to head"
            )
        if settings.train == "head" and settings.head.kind == "none":
            problems.append(f"model.{tower}.train: head needs a head; set model.{tower}.head.kind to linear or projection")
    if image.train == text.train == "frozen":
        problems.append("model.image.train and model.text.train are both frozen: nothing is left to train")
    if image.head.kind != "none" and experiment.model.joint_dim is None:
        problems.append("model.joint_dim is needed when model.image.head.kind is not none: give the joint space's size")
    return problems


def _distill_problems(experiment: Experiment) -> list[str]:
    distill, experts, data = experiment.distill, experiment.experts, experiment.data
    problems = []
    problems += _rank_problems(experiment)
    if distill.gradient == "finite_difference" and distill.precision == "bf16":
        problems.append(
            "distill.precision: bf16 with distill.gradient: finite_difference: the difference of two passes drowns in the "
            "rounding of one (docs/decisions.md); set precision to fp32 or gradient to exact"
        )
    if distill.min_experts is not None and distill.min_experts > experts.count:
        problems.append(
            f"distill.min_experts ({distill.min_experts}) is more than experts.count ({experts.count}): lower it or train more"
        )
    reach = distill.max_start_epoch + distill.expert_epochs
    if reach > experts.epochs:
        problems.append(
            f"distill.max_start_epoch ({distill.max_start_epoch}) + distill.expert_epochs ({distill.expert_epochs}) = {reach} "
            f"is more than experts.epochs ({experts.epochs}): lower one of the first two or train longer"
        )
    train_images = data.train_images or (SCENES_BY_DEFAULT["train"] if data.source == "scenes" else None)
    if train_images is not None:
        shards = math.ceil(train_images / data.shard_images)
        if max(distill.pairs) > train_images:
            problems.append(
                f"distill.pairs ({max(distill.pairs)}) is more than the training pictures ({train_images}): lower it"
            )
        if experts.readers > shards:
            problems.append(
                f"experts.readers ({experts.readers}) is more than the training shards ({shards}): lower it, or lower "
                "data.shard_images for more shards"
            )
    return problems


def _size_problems(experiment: Experiment) -> list[str]:
    distill, evaluation = experiment.distill, experiment.evaluation
    sets = len(distill.pairs) * (len(distill.seeds) + len(experiment.coresets.methods) * len(evaluation.seeds))
    units = experiment.experts.count + sets * len(evaluation.seeds) * (1 + len(evaluation.image_models))
    if units > MOST_UNITS:
        return [
            f"experts.count, distill and evaluation ask for about {units:,} units, more than {MOST_UNITS:,}: lower the count, "
            "or shorten the lists"
        ]
    return []


def _rank_problems(experiment: Experiment) -> list[str]:
    distill, experts, image = experiment.distill, experiment.experts, experiment.model.image
    problems = []
    smallest = min([*distill.pairs, *([distill.batch_size] if distill.batch_size else [])])
    for section, workers, batch in (("distill", distill.workers, smallest), ("experts", experts.workers, experts.batch_size)):
        if workers > batch:
            problems.append(f"{section}.workers ({workers}) is more than the pairs of a step ({batch}): lower it")
    for section, stage in (("distill", distill.zero_stage), ("experts", experts.zero_stage)):
        if stage and image.train in ("head", "frozen"):
            problems.append(
                f"{section}.zero_stage ({stage}) shards what moves, and with model.image.train: {image.train} only heads do: "
                "set it to 0"
            )
    if distill.gradient == "full" and (distill.workers > 1 or distill.zero_stage):
        problems.append("distill.gradient: full keeps one graph in one process: set exact, or workers to 1 and zero_stage to 0")
    return problems


def load_experiment(path: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read and check a description.

    Args:
        path: a YAML file.
        overrides: `section.key=value` each, the value written as in YAML.

    Raises:
        ConfigError: one sentence naming the file and the key, and the mend where it is known.
    """
    path = Path(path)
    tree = _read_tree(path)
    for override in overrides or []:
        _apply_override(tree, override)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from None


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; the presets are in jobs/presets/") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}: name a YAML file that this user may read") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: larger than {MOST_BYTES >> 10} KiB: this is no description of an experiment")
    try:
        tree = strict_yaml.parse(data.decode())
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping with keys such as name, data, model; found {type(tree).__name__}")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    *sections, leaf = key.split(".")
    if not sign or not all([*sections, leaf]):
        raise ConfigError(f"--set {override}: expected section.key=value, for example --set 'distill.pairs=[20, 50]'")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    try:
        node[leaf] = strict_yaml.parse(value)
    except ValueError as error:
        raise ConfigError(f"--set {_short(override)}: {_short(value)} is not a YAML value ({_short(str(error))})") from None


def _short(text: str) -> str:
    """For a sentence: a value may be a page."""
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(_short(str(part)) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys_at(first["loc"][:-1]), n=1)
        sentence = f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    else:
        message = _short(first["msg"].removeprefix("Value error, "))
        sentence = f"{key}: {message} (found {_repr.repr(first['input'])})" if key else message
    return sentence + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Experiment
    for part in location:
        field = section.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
