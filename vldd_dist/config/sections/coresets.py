"""coresets: the baselines that select real pairs."""

from typing import Annotated

from pydantic import AfterValidator, Field

from vldd_dist.config.base import HOW_TO_RUN, AnyPlugin, Resources, Section, distinct, plugin_of
from vldd_dist.plugins import CORESETS

Method = Annotated[AnyPlugin, plugin_of(CORESETS)]


class CoresetSettings(Section):
    """The baselines: M real pairs, or means of groups of real pairs. `resources` is also for `expert features`, the joint
    features of all training images, by which coresets and the k-means initialisation select. The GPU is for these only:
    selections compute on CPUs."""

    methods: Annotated[list[Method], AfterValidator(distinct)] = Field(
        ["random", "herding", "k_center", "k_means", "forgetting"],
        validate_default=True,
        description="Coreset methods: NAME, or {name: NAME, SETTING: VALUE}.",
    )
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
