"""Bad studies."""

from pathlib import Path
from random import Random

import yaml

from vldd_dist.testing.bad_input.case import ANY, Case, kind
from vldd_dist.testing.bad_input.cases import values as bad
from vldd_dist.testing.bad_input.cases.descriptions import with_description

STUDY: dict[str, object] = {
    "name": "towers",
    "base": "scenes",
    "set": {"experts.count": 2},
    "vary": {"tower": {"nfnet": {}, "vit": {"model.image.model": "test_vit"}}, "distill.seeds": [[0], [1]]},
    "variants": {"noise": {"distill.initialise": "noise"}},
    "tables": {
        "all": {"title": "All", "variants": ["noise"], "methods": ["full", "distilled"], "pairs": [10], "across": "method"}
    },
}


@kind(10)
def changed_studies(draw: Random) -> Case:
    Path("study.yaml").write_bytes(bad.dumped(bad.changed(draw, STUDY)))
    return Case(with_description(draw, "study.yaml", []), ANY)


@kind(4)
def studies_that_are_refused(draw: Random) -> Case:
    changes: list[dict[str, object]] = [
        {"variants": {"a": {}, "b": {}}},
        {"variants": {"a": {"experts.count": 0}}},
        {"tables": {"t": {"title": "T", "variants": ["nothing"]}}},
        {"tables": {"t": {"title": "T", "published": ["nothing"]}}},
        {"base": "nothing"},
        {"vary": {"seed": [1, 1]}},
    ]
    Path("study.yaml").write_text(yaml.safe_dump(STUDY | draw.choice(changes)))
    return Case(["run", "study.yaml", "--plan"], frozenset({2}))
