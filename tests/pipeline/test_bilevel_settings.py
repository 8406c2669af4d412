"""Settings that the bilevel objective rejects: what it cannot do, and students that are trained unlike the evaluation's."""

import pytest

from tests.pipeline.bilevel_by_hand import described
from vldd_dist.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["distill.workers=2", "distill.objective.gradient=full"], "full keeps one graph in one process: set exact"),
        (
            ["distill.objective.gradient=finite_difference"],
            "finite_difference is accepted only where it is checked against exact, and distill.objective: bilevel does not",
        ),
        (["distill.objective.gradient=tesla"], "tesla is not accurate enough for distill.objective: bilevel: set exact"),
        (["evaluation.momentum=0.5"], r"student_momentum \(0\.9\) differs from evaluation\.momentum \(0\.5\)"),
        (["distill.objective.student_weight_decay=0"], r"student_weight_decay \(0\) differs from evaluation\.weight_decay"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_description(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        described("", "head", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        # With more pairs than a batch of the evaluation, all pairs at once were better than its batches (docs/methods.md).
        ["evaluation.batch_size=4"],
        ["evaluation.momentum=0.5", "distill.objective.student_momentum=0.5"],
    ],
)
def test_a_student_that_is_trained_as_in_the_evaluation_is_accepted(overrides: list[str]) -> None:
    assert described("", "head", *overrides).distill.pairs == [5]
