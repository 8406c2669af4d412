"""A result of an application, as it is stored in its unit's manifest."""

from collections.abc import Collection, Mapping

from pydantic import Field

from vldd_dist.strict_model import StrictModel


class Result(StrictModel):
    """A row of the application's table."""

    method: str = Field(description="distilled, full data, or the label of a baseline")
    setting: str = Field("", description="rows of one setting are compared with each other")
    figures: dict[str, list[float]] = Field(description="the row's figures by name: a value for each seed")
    bound: bool = Field(False, description="a bound for the other rows; it is not marked as the best")
    of_set: bool = Field(
        True,
        description="whether it depends on the distilled set. If not, each set's unit measures it again with the same seeds, "
        "and the table has it once",
    )


class ResultRows:
    """The rows of a table while it is measured seed by seed."""

    def __init__(self) -> None:
        # Setting -> method -> figure -> a value for each seed so far.
        self._settings: dict[str, dict[str, dict[str, list[float]]]] = {}

    def add(self, method: str, figures: Mapping[str, float], setting: str = "") -> None:
        """Add one seed's figures to the row of this setting and method."""
        row = self._settings.setdefault(setting, {}).setdefault(method, {})
        for name, value in figures.items():
            row.setdefault(name, []).append(value)

    def results(self, bounds: Collection[str] = (), without_set: Collection[str] = ()) -> list[Result]:
        """A result for each row: settings, and the methods of each, in the order in which they were first added.

        Args:
            bounds: the methods whose results are bounds for the others.
            without_set: the methods whose results do not depend on the distilled set.
        """
        return [
            Result(method=method, setting=setting, figures=figures, bound=method in bounds, of_set=method not in without_set)
            for setting, rows in self._settings.items()
            for method, figures in rows.items()
        ]
