"""Facts: small results in a unit's manifest, which can be read without opening an object. Each stage declares its own
(`StageSpec.result`), returns them, and readers get them back with `UnitReader.facts_as`."""

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, create_model

from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.strict_model import StrictModel

Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Facts(StrictModel):
    """Base of the facts of all kinds."""


FactsType = TypeVar("FactsType", bound=Facts)


_PERCENTAGES = dict.fromkeys(RECALL_METRICS, (Percent, ...))
_METRICS: Any = create_model("_METRICS", __base__=Facts, **_PERCENTAGES)  # type: ignore[call-overload]


class Recalls(_METRICS):
    """Recall in percent: image to text, text to image, at 1, 5 and 10, and the mean of the six."""

    if TYPE_CHECKING:
        mean: float
