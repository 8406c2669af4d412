"""A result of an application, as it is stored in its unit's manifest."""

from pydantic import Field

from vldd_dist.strict_model import StrictModel


class Result(StrictModel):
    """A row of the application's table."""

    method: str = Field(description="distilled, full data, or the label of a baseline")
    setting: str = Field("", description="rows of one setting are compared with each other")
    figures: dict[str, list[float]] = Field(description="the row's figures by name: a value for each seed")
    bound: bool = Field(False, description="a bound for the other rows; it is not marked as the best")
