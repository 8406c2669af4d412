"""applications: measurements of how useful distilled pairs are for other tasks."""

from typing import Annotated

from pydantic import AfterValidator, Field

from vldd_dist.config.base import HOW_TO_RUN, AnyPlugin, Resources, Section, distinct, plugin_of
from vldd_dist.plugins import APPLICATIONS


class ApplicationsSettings(Section):
    """Applications of distilled pairs, each with its baselines. They need a frozen image backbone (model.image.train: head)."""

    run: Annotated[list[Annotated[AnyPlugin, plugin_of(APPLICATIONS)]], AfterValidator(distinct)] = Field(
        [], description="Applications to run: NAME, or {name: NAME, SETTING: VALUE} (docs/applications.md)."
    )
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
