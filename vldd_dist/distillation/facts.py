"""The facts of a distillation's unit."""

from typing import Any

from pydantic import Field

from vldd_dist.artifacts.facts import Count, Facts, Percent


class DistillationFacts(Facts):
    best_step: Count = Field(description="outer step with the best validation recall; its pairs are the result")
    best_validation: Percent
    validation: list[tuple[Count, Percent]] = Field(description="(outer step, mean recall in percent)")
    start: dict[str, Any] = Field(description="provenance of the starting pairs")
    objective: dict[str, Any] = Field(
        default={},
        description=(
            "facts that the objective adds: `difference_check` for trajectory matching by finite differences, `starts` for "
            "`asynchronous: {auto: true}`"
        ),
    )
