"""coresets: the baselines."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vldd_dist.config.base import Resources, Section, distinct


class CoresetSettings(Section):
    """The baselines: M real pairs."""

    methods: Annotated[list[Literal["random", "herding", "k_center", "forgetting"]], AfterValidator(distinct)] = [
        "random",
        "herding",
        "k_center",
        "forgetting",
    ]
    resources: Resources = Field(default_factory=Resources)
