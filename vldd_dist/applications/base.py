"""The interface of an application."""

from abc import abstractmethod
from inspect import isabstract
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator

from vldd_dist.applications.feature_space.inputs import Inputs
from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.result import Result
from vldd_dist.config.base import AnyPlugin, Plugin, distinct, plugin_of
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.coresets.base import Coreset
from vldd_dist.plugins import CORESETS

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment

# The method of results of students that are trained on all training pairs.
FULL_DATA = "full data"


class Figure(NamedTuple):
    """A column of an application's table.

    Attributes:
        key: its name in `Result.figures`.
        head: the column's head.
        better: whether the highest or the lowest figure is marked as the best; None: none is marked.
        decimals: decimals shown.
        group: a common head above neighbouring columns of the same group.
    """

    key: str
    head: str
    better: Literal["higher", "lower"] | None = None
    decimals: int = 1
    group: str = ""


class Application(Plugin):
    """The settings of a use of distilled pairs and of its baselines.

    Attributes:
        title: the title of its table.
        figures: the columns of its table.
        needs: "distilled" if it needs the experiment's distilled pairs. It then runs once for each distilled set.
    """

    title: ClassVar[str]
    figures: ClassVar[tuple[Figure, ...]]
    known_needs: ClassVar[frozenset[str]] = frozenset({"distilled"})

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        """Raises ValueError if the new class, unless it is abstract, lacks `title` or `figures`. Otherwise the report would be
        the first to miss them, after the run."""
        super().__pydantic_init_subclass__(**keywords)
        lacking = [name for name in ("title", "figures") if not hasattr(cls, name)]
        if lacking and not isabstract(cls):
            raise ValueError(f"the application {cls.__name__} lacks {lacking[0]!r}: its table needs it")

    @abstractmethod
    def run(self, given: Inputs) -> list[Result]:
        """The rows of the table."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Sentences to print below the table, which explain the figures."""

    def conflicts(self, experiment: "Experiment") -> list[str]:
        """Which of these settings do not work with others of the experiment, one sentence each."""
        return []

    def count_conflicts(self, train_images: int) -> list[str]:
        """What asks for more than this number of training images, one sentence each."""
        return []

    def models(self, given: ModelSettings, seed: int) -> list[ModelSettings]:
        """The models of its students, which differ from the given model at most in their heads and the size of the joint
        space."""
        return [given]

    def flops(self, planned: Planned) -> float | None:
        """Floating-point operations of a run, for a plan; None if unknown.

        Count what `run` trains and measures with the methods of `Planned`, which have the names of those of `Students`; for
        a student with another model, with `planned.with_model(model)`. What is repeated for each seed counts `planned.seeds`
        times.
        """
        return None


def _selects_by_features(methods: list[Coreset]) -> list[Coreset]:
    for method in methods:
        unavailable = [
            *sorted(method.needed() - {"expert_features"}),
            *(["an expert's joint space"] if method.in_joint_space else []),
            *(["means of several"] if method.averages else []),
        ]
        if unavailable:
            raise ValueError(
                f"{method.name}: a baseline of applications selects real pairs by their features, without {unavailable[0]}: "
                "choose another coreset"
            )
    return methods


# The coresets that an application compares with.
Baselines = Annotated[
    list[Annotated[AnyPlugin, plugin_of(CORESETS)]], AfterValidator(distinct), AfterValidator(_selects_by_features)
]
BASELINES = "Coresets to compare with, selected by the features of the frozen backbone, so that no expert is needed."
