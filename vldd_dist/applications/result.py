"""A result of an application, as it is stored in its unit's manifest."""

from pydantic import Field

from vldd_dist.strict_model import StrictModel


class Result(StrictModel):
    """A row of the application's table."""

    method: str = Field(description="what is judged: distilled, full, or the label of a baseline")
    setting: str = Field("", description="rows of one setting are compared with each other")
    figures: dict[str, list[float]] = Field(description="by name: a value for each seed, where the row has it")
    bound: bool = Field(False, description="what others are measured by: not among those of which the best is marked")
