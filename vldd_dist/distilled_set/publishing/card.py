"""A distilled set's card: README.md, whose header the Hugging Face hub reads and whose code trains on the set."""

from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

import yaml

from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.manifest import IMAGE_WEIGHTS, Recipe, SetFacts, SplitSize
from vldd_dist.distilled_set.publishing.heat_map import LARGEST
from vldd_dist.distilled_set.publishing.hub_header import header_of, name_of_data
from vldd_dist.method_names import DISTILLED, display_name
from vldd_dist.recall_metrics import DISPLAY_NAMES, RECALL_METRICS, coarseness, mean_over_runs, measured_on

SIMILARITY = "similarity.png"


# Read when the module is imported, because a worker's copy of this package may be removed while it runs.
_TEMPLATE = resources.files("vldd_dist.distilled_set.publishing").joinpath("card.md").read_text()


def render_card(distilled: DistilledSet) -> str:
    """The text of README.md, with a YAML header for the Hugging Face hub."""
    phases = len(distilled.as_datasets())
    recipe, facts, learned, pairs = distilled.recipe, distilled.facts, distilled.learned, len(distilled)
    data, known = facts.get("data", {}), SetFacts.model_validate(facts)
    changed = known.changed_after_evaluation
    encoder = ", ".join(f"{key} {value}" for key, value in sorted(recipe.text_encoder.items()))
    return Template(_TEMPLATE).substitute(
        header=yaml.safe_dump(header_of(distilled), sort_keys=False, allow_unicode=True).strip(),
        pairs=pairs,
        source=name_of_data(facts),
        licence=data.get("licence", "unknown"),
        image_size=recipe.image_size,
        resize=data.get("resize", "how is not recorded"),
        originals=_ORIGINALS if distilled.start_images is not None else "",
        evaluation=_CHANGED if changed else _evaluation(known.test_split),
        recalls="" if changed else _recall_table(facts.get("recalls", {})),
        image_model=_with_arguments(recipe.image_model, recipe.image_model_args),
        image_weights=_weights_of(recipe),
        image_train=_with_arguments(recipe.image_train, recipe.lora or {}),
        image_head=recipe.image_head,
        text_head=recipe.text_head,
        joint_dim=recipe.joint_dim or "the image features' size",
        text_encoder=encoder,
        mean=", ".join(f"{value:g}" for value in recipe.mean),
        std=", ".join(f"{value:g}" for value in recipe.std),
        loss=_in_words(recipe.loss),
        size=_size_of(distilled.sizes),
        similarity=_similarity_shown(pairs) if distilled.similarity() is not None else "",
        learned=", ".join(f"{name} {value:.4g}" for name, value in learned.items()) or "nothing",
        training=_TRAINING[recipe.freezes_backbone],
        of_phases=f" of each of the {phases} phases, one after the other" if phases > 1 else "",
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=f"{recipe.learning_rate:g}" + ("" if changed else _RATE_CHOSEN),
        momentum=f"{recipe.momentum:g}",
        weight_decay=f"{recipe.weight_decay:g}",
        objective=str(facts.get("objective", "synthetic pairs learned by gradients")).replace("_", " "),
        start=_start_of(facts.get("start", {})),
        best=_best_of(facts.get("outer_steps_to_best", "unknown")) + (_BEFORE_CHANGE if changed else _BEST_CHOSEN),
        digest=distilled.digest,
    )


_CHANGED = "The set was changed after its evaluation, so that its recall is not known."
_RATE_CHOSEN = " (chosen on the validation split; the rate chosen most often)"
_BEST_CHOSEN = " (chosen on the validation split)"
_BEFORE_CHANGE = " (before the set was changed)"

_ORIGINALS = """
`pairs.safetensors` also contains `start_images`, the images from which the distillation started, and `captions.jsonl`
contains captions of the original data. If the pairs were initialised with real pairs, these are unchanged (resized) images
of the original data, under its licence. Training does not use them.
"""

# The key says whether the backbone is frozen. A frozen one computes the features of each image only once.
_TRAINING = {
    False: "losses = train_on(distilled, image_tower, text_tower)",
    True: "features = image_tower.features(distilled.images)\n"
    "losses = train_on(distilled, image_tower.head, text_tower, inputs=features)",
}


def _evaluation(test: SplitSize | None) -> str:
    """What the table of recalls shows."""
    measured = "" if test is None else f" on {measured_on(test.images, test.captions)}"
    coarse = f" {found}" if test and (found := coarseness(test.images)) else ""
    return (
        f"The table has the test recall, in percent{measured}, of dual encoders trained only on these pairs (`{DISTILLED}`).\n"
        "The other rows are the same number of pairs without distillation: real pairs, or means of real pairs "
        f"(`prototypes`).{coarse}"
    )


def _with_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """For example `lora (rank 4, alpha 4)`."""
    return f"{name} ({_in_words(arguments)})" if arguments else name


def _weights_of(recipe: Recipe) -> str:
    """Where the image tower's starting weights are."""
    if recipe.image_weights == "random":
        return "random"
    if recipe.image_weights == "in the set":
        return f"`{IMAGE_WEIGHTS}` of this set"
    public = recipe.public_weights
    where = f"https://huggingface.co/{public['hub']}" if "hub" in public else public.get("url", "timm's")
    return f"public: timm {public.get('name', recipe.image_model)} ({where}, licence {public.get('licence', 'unknown')})"


def _in_words(settings: Mapping[str, Any]) -> str:
    """For example `infonce, temperature 0.07`: the name first, the others in alphabetical order, because a manifest does not
    keep the order of settings. Nested settings are in brackets, and texts such as expressions are code."""

    def shown(key: str, value: Any) -> str:
        if key in ("name", "kind"):
            return str(value)
        if isinstance(value, dict):
            value = f"({_in_words(value)})"
        elif isinstance(value, str):
            # A bar would end the cell of the table, also within code.
            value = "`" + value.replace("|", "\\|") + "`"
        return f"{key} {value}"

    in_order = sorted(settings.items(), key=lambda setting: (setting[0] not in ("name", "kind"), setting[0]))
    return ", ".join(shown(key, value) for key, value in in_order)


def _size_of(parts: Mapping[str, int]) -> str:
    return f"{sum(parts.values()):,} bytes: " + ", ".join(f"{name} {size:,}" for name, size in parts.items())


def _similarity_shown(pairs: int) -> str:
    first = f" of the first {LARGEST} pairs" if pairs > LARGEST else ""
    return f"""
![similarity]({SIMILARITY})

The learned similarity of images (rows) and texts (columns){first}: blue is negative, white is zero, red is positive.
"""


def _best_of(steps: int | str) -> str:
    """The outer steps until the published pairs; with none of them, the pairs were not changed."""
    return "0; the pairs are those from which the distillation started: no later ones were better" if steps == 0 else str(steps)


def _start_of(start: dict[str, Any]) -> str:
    images, texts, fixed = start.get("images", "unknown"), start.get("texts", "unknown"), start.get("fixed", [])
    start_text = images if images == texts else f"images {images}, texts {texts}"
    return start_text + (f"; {' and '.join(fixed)} were not learned" if fixed else "")


def _recall_table(recalls: dict[str, list[dict[str, float]]]) -> str:
    """A Markdown table with one row for each method, averaged over seeds; the distilled set comes first."""
    lines = [
        f"| pairs | {' | '.join(DISPLAY_NAMES[metric] for metric in RECALL_METRICS)} | seeds |",
        "|---|" + "--:|" * (len(RECALL_METRICS) + 1),
    ]
    for method in sorted(recalls, key=lambda name: (name != DISTILLED, name)):
        runs = recalls[method]
        cells = [f"{mean_over_runs(runs, metric):.1f}" for metric in RECALL_METRICS]
        lines.append(f"| {display_name(method)} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(lines)
