"""Bad descriptions and overrides."""

import json
from pathlib import Path
from random import Random

import yaml

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.testing.bad_input.case import ANY, SCENES, Case, kind
from vldd_dist.testing.bad_input.cases import values as bad


def _section_keys() -> list[str]:
    full = load_experiment(SCENES).model_dump(mode="json")
    return [f"{section}.{key}" for section, values in full.items() if isinstance(values, dict) for key in values]


def with_description(draw: Random, config: str, overrides: list[str]) -> list[str]:
    """A command that reads a description."""
    sets = [part for override in overrides for part in ("--set", override)]
    if draw.random() < 0.5:
        return ["config", config, *sets]
    return ["run", config, "--store", "store", "--plan", *sets]


@kind(10)
def overrides_that_are_no_yaml(draw: Random) -> Case:
    key = draw.choice(_section_keys())
    value = draw.choice([value for value in bad.YAML_VALUES if value not in ("",)])
    return Case(with_description(draw, SCENES, [f"{key}={value}"]), frozenset({0, 2, 4}))


@kind(12)
def overrides_of_the_wrong_kind(draw: Random) -> Case:
    key = draw.choice(_section_keys())
    value = draw.choice(bad.VALUES)
    return Case(with_description(draw, SCENES, [f"{key}={json.dumps(value)}"]), ANY)


REFUSED = [
    "data.licence=2020-13-45", "seed=!!int abc", "seed=" + "9" * 5000, "experts.lr_image=.inf", "distill.lr_images=.nan",
    "distill.seeds=[0, 0]", "distill.pairs=[5, 5]", "evaluation.learning_rates=[0.1, 0.1]", "evaluation.seeds=[]",
    "experts.count=1000000000", "model.image.model_args={a: .inf}", "name=../x", "name=x/y", "data.image_size=100000000",
    "distill.objective.max_loss=1e999", "data.max_bad_fraction=.nan", "name=&a [*a]",
]  # fmt: skip


@kind(8)
def overrides_that_are_refused(draw: Random) -> Case:
    override = draw.choice(REFUSED)
    commands = [with_description(draw, SCENES, [override]), ["submit", SCENES, "--store", "s3://x/y", "--set", override]]
    return Case(draw.choice(commands), frozenset({2}))


@kind(10)
def changed_descriptions(draw: Random) -> Case:
    whole = draw.choice([yaml.safe_load(Path(SCENES).read_text()), load_experiment(SCENES).model_dump(mode="json")])
    tree = bad.changed(draw, whole)
    Path("description.yaml").write_bytes(bad.dumped(tree))
    return Case(with_description(draw, "description.yaml", []), ANY)


@kind(5)
def bytes_for_a_description(draw: Random) -> Case:
    data = Path(SCENES).read_bytes()
    bomb = "\n".join([f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else 'x')}]" for n in range(12)])
    texts = [bad.damaged(draw, data), draw.choice(bad.JSON_TEXTS), bomb.encode(), draw.randbytes(300), b"#" * (1 << 20)]
    Path("description.yaml").write_bytes(draw.choice(texts))
    return Case(with_description(draw, "description.yaml", []), ANY)
