"""What an unknown key probably means: a setting of another plug-in or section, a published name, or a misspelling."""

from pydantic_core import ErrorDetails

from vldd_dist.config.base import UNKNOWN_KEY, Section
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.known_keys import dotted, known_keys, siblings
from vldd_dist.errors import did_you_mean

# Most keys that a message names.
NAMED = 5
# A key that is less similar is not proposed: the same name in another section is more likely meant.
SIMILAR = 0.8
# Names of the published scripts (docs/hyperparameters.md) and of other libraries -> our key.
OTHER_NAMES = {
    "num_experts": "experts.count",
    "train_epochs": "experts.epochs",
    "batch_size_train": "experts.batch_size",
    "num_queries": "distill.pairs",
    "Iteration": "distill.outer_steps",
    "syn_steps": "distill.objective.inner_steps",
    "mini_batch_size": "distill.batch_size",
    "lr_img": "distill.lr_images",
    "lr_txt": "distill.lr_texts",
    "lr_lr": "distill.objective.lr_rates",
    "ema_decay": "distill.ema",
    "eval_it": "distill.validate_every",
    "num_eval": "evaluation.seeds",
    "epoch_eval_train": "evaluation.epochs",
    "batch_size_test": "evaluation.encode_batch",
    "image_encoder": "model.image.model",
    "image_pretrained": "model.image.weights",
    "image_trainable": "model.image.train",
    "text_encoder": "model.text.model",
    "text_trainable": "model.text.train",
    "pretrained": "model.image.weights",
    "lr": "evaluation.learning_rates",
    "r": "model.image.lora.rank",
}


def unknown_key(problems: list[ErrorDetails]) -> tuple[str, int]:
    """A sentence about the first problem, an unknown key, and the number of the problems that it covers."""
    first = problems[0]
    *parent, key = first["loc"]
    section: type[Section] = first["ctx"]["section"]
    keys = [str(other["loc"][-1]) for other in problems if other["type"] == UNKNOWN_KEY and [*other["loc"][:-1]] == parent]
    if sentence := _of_another_plugin(".".join(map(str, parent)), keys, section):
        return sentence
    return f"{'.'.join(map(str, first['loc']))}: unknown key{_hint(dotted(tuple(parent)), str(key), section)}", 1


def _of_another_plugin(parent: str, keys: list[str], section: type[Section]) -> tuple[str, int] | None:
    """The sentence about keys that are settings of other plug-ins of the same kind, and their number; None if the first is not."""
    classes = siblings(section)
    owners = [name for name, plugin in classes.items() if keys[0] in plugin.model_fields]
    if not owners:
        return None
    theirs = [key for key in keys if any(key in classes[name].model_fields for name in owners)]
    own = next(name for name, plugin in classes.items() if plugin is section)
    verb, them = ("belongs", "it") if len(theirs) == 1 else ("belong", "them")
    return f"{parent}: {', '.join(theirs)} {verb} to {_listed(owners)}, not to {own}: remove {them}", len(theirs)


def _hint(parent: str, key: str, section: type[Section]) -> str:
    """The end of the sentence.

    Args:
        parent: the key of the section; empty for the description itself and for a study.
    """
    fields, known = list(section.model_fields), known_keys()
    if in_description := parent in known or section is Experiment:
        begun = [f"{parent}.{name}".removeprefix(".") for name in fields if name.startswith(f"{key}_")]
        if meant := begun or ([OTHER_NAMES[key]] if key in OTHER_NAMES else []):
            return f"; did you mean {_listed(meant)}?"
    if similar := did_you_mean(key, fields, SIMILAR):
        return similar
    # A key that is known at this place belongs to a section of another kind.
    elsewhere = [other for other in known if other.rpartition(".")[2] == key] if in_description else []
    if elsewhere and f"{parent}.{key}" not in known:
        near = [other for other in elsewhere if other.partition(".")[0] == parent.partition(".")[0]]
        return f"; did you mean {_listed(near or elsewhere)}?"
    return f"; its keys are {', '.join(fields)}"


def _listed(names: list[str]) -> str:
    *others, last = names[:NAMED]
    return f"{', '.join(others)} or {last}" if others else last
