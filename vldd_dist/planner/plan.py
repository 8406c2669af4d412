"""A plan: what a run would do and what it would need, as plain values. `show_plan` prints it; `document` turns it into JSON."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.described import Described
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.distillation_steps import objectives_without_costs
from vldd_dist.cost_model.io_model import COMMON_CAPTIONS, DataSize, Traffic, data_size, text_dim
from vldd_dist.cost_model.memory_model import Terms, peak
from vldd_dist.data.preparation.groups import limits_as_counts
from vldd_dist.data.sources.base import Source
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.advice import advice_on
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.graphs.description import graph_of
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.pipeline.revisions import check_revisions
from vldd_dist.pipeline.stage import StageSpec, all_stages
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.stated_data import with_stated_data
from vldd_dist.planner.suggestions import memory_limit, suggest
from vldd_dist.planner.work import PlannedExperiment, Work, count_work
from vldd_dist.store.store import Store

LOWER_BOUND = (
    "The peak of distillations is a lower bound, without the passes and the real pairs of a step, because the objective {} "
    "does not say what a step takes (`costs`)"
)


@dataclass(frozen=True)
class StageUnits:
    """The units of one kind. `workers` is for one unit; `cpus` and `gpus` are for one worker."""

    stage: StageSpec
    units: int
    done: int
    workers: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Need:
    """What one unit of a stage needs; of several experiments, one whose unit does not fit or, if all fit, one whose unit
    needs the most memory.

    Attributes:
        memory_terms: bytes of memory of a rank at its peak, by name; None if its passes cannot be traced.
        is_lower_bound: whether the peak is more than these bytes, because the objective does not say what it takes.
        memory_limit_bytes: bytes of GPU memory for tensors; None if the description names no GPU memory.
        host_memory_bytes: bytes of host memory in which it holds features and embeddings; None if not estimated.
        traffic: bytes read and written; None if not estimated.
        dataset_size_is_measured: whether the data set's size in `traffic` was read from the store, and not estimated.
        suggestion: which settings to change if the unit does not fit.
    """

    stage: StageSpec
    experiment: str
    memory_terms: Terms | None
    is_lower_bound: bool
    memory_limit_bytes: int | None
    host_memory_bytes: int | None
    traffic: Traffic | None
    dataset_size_is_measured: bool
    suggestion: str | None


def fits(need: Need) -> bool | None:
    """Whether the peak is at most the limit; None if it is not known."""
    if need.memory_terms is None or need.memory_limit_bytes is None:
        return None
    is_enough = peak(need.memory_terms) <= need.memory_limit_bytes
    return None if is_enough and need.is_lower_bound else is_enough


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters, and bytes of a snapshot of the trainable ones."""

    parameters: int
    trainable: int
    snapshot: int


@dataclass(frozen=True)
class Sharing:
    """How the variants of a study share units: the number of variants, of units that several variants need, and of all units
    if each variant ran in a store of its own."""

    variants: int
    shared: int
    asked: int


@dataclass(frozen=True)
class Plan:
    """The plan of an experiment (with `model`) or of a study (with `sharing`). `notes` are sentences about assumptions and
    unknown figures."""

    name: str
    store: str | None
    stages: list[StageUnits]
    model: ModelSize | None
    sharing: Sharing | None
    needs: list[Need]
    work: dict[StageSpec, Work]
    notes: list[str]


def plan(described: Described, store: Store | None, until: str | None = None) -> Plan:
    """Plan a run in the store, without running anything. The first samples of each source are read.

    Args:
        store: None: plan for an empty store.
        until: a milestone, as in `Graph.units`.

    Raises:
        ConfigError: there is no such milestone, or the description has an error that only the graph or its units show.
        DataError: no sample that was read is usable.
        StoreError: the source cannot be reached at the moment; or the store cannot be written, so that a run would be refused.
    """
    if store is not None:
        store.check_permission()
    experiments, notes = with_stated_data(described.experiments)
    graph = graph_of(described.with_experiments(experiments))
    units, owners = graph.units(until), list(graph.owners(until))
    check_revisions(units)
    done = set() if store is None else committed_units(store, units)
    _check_sources([owner for owner, _ in owners], done)
    planned, assumptions = _planned(owners, done, store)
    kinds = {unit.kind for unit in units}
    needs, untraced = _needs([stage for stage in estimated_stages() if stage.kind in kinds], planned)
    work, uncounted = count_work(planned)
    notes += [*advice_on(described), *assumptions, *untraced]
    if others := [stage.title for stage in all_stages() if stage.kind in kinds and stage.memory is None]:
        notes.append(f"The memory of these stages is not estimated: {', '.join(others)}")
    if any(one.data is None for one in planned):
        notes.append(
            'In the column "reads", "data" are images and caption embeddings, whose number will be known once the dataset is '
            "prepared"
        )
    return Plan(
        name=described.name,
        store=None if store is None else store.url,
        stages=_stages(units, done),
        model=_model_size(planned[0]) if isinstance(graph, Graph) else None,
        sharing=_sharing(graph, until) if isinstance(graph, StudyGraph) else None,
        needs=needs,
        work=work,
        notes=[*notes, *uncounted],
    )


def _check_sources(graphs: Iterable[Graph], done: set[str]) -> None:
    """Read the first samples of each source, unless its dataset is already prepared: then this machine may not see the source.

    Raises:
        DataError: no sample that was read is usable.
        StoreError: the source cannot be reached at the moment.
    """
    # Settings as JSON -> source: each is checked once, and not for each variant.
    to_check: dict[str, Source] = {}
    for graph in graphs:
        if graph.unit("dataset").id not in done:
            source = graph.experiment.data.source
            to_check.setdefault(source.model_dump_json(), source)
    for source in to_check.values():
        for split in source.own_splits():
            source.check(split)


def _stages(units: list[WorkUnit], done: set[str]) -> list[StageUnits]:
    totals = Counter(unit.kind for unit in units)
    finished = Counter(unit.kind for unit in units if unit.id in done)
    one_of_kind = {unit.kind: unit for unit in units}
    return [
        StageUnits(stage, totals[kind], finished[kind], unit.workers, unit.resources.cpus, unit.resources.gpus)
        for stage in all_stages()
        if (unit := one_of_kind.get(kind := stage.kind))
    ]


def _planned(
    owners: list[tuple[Graph, list[WorkUnit]]], done: set[str], store: Store | None
) -> tuple[list[PlannedExperiment], list[str]]:
    """What is planned of each experiment; sentences about assumptions."""
    estimators: dict[int, Estimator] = {}
    # Id of a `dataset` unit -> size of its data.
    sizes: dict[str, DataSize | None] = {}
    # Text encoder -> assumed size of its embeddings.
    assumed: dict[str, int] = {}
    # Keys of limits on the images that are assumed to be reached.
    reached: dict[str, None] = {}
    planned: list[PlannedExperiment] = []

    def reader_if_done(unit: WorkUnit) -> UnitReader | None:
        return UnitReader(store, unit.kind, unit.id) if store is not None and unit.id in done else None

    for graph, units in owners:
        dataset = graph.unit("dataset")
        if dataset.id not in sizes:
            sizes[dataset.id] = size = data_size(graph.experiment, reader_if_done(dataset))
            if size is not None and not size.measured:
                reached |= {f"data.{split}_images": None for split in limits_as_counts(graph.experiment.data)}
        dim, is_known = text_dim(graph.experiment.model.text, reader_if_done(graph.unit("caption_embeddings")))
        if not is_known:
            assumed[graph.experiment.model.text.model] = dim
        to_run = [unit for unit in units if unit.id not in done]
        estimator = estimators.setdefault(dim, Estimator(dim))
        planned.append(PlannedExperiment(graph.experiment, to_run, sizes[dataset.id], estimator))
    notes = [f"The size of the embeddings of {model} is not known here; {dim} is assumed" for model, dim in assumed.items()]
    if reached:
        notes.append(
            "The numbers of images are not known until the data are prepared; the most that they can be is assumed: "
            f"{', '.join(reached)}"
        )
    if any(one.data and not one.data.measured and one.experiment.data.source.captions_per_image() is None for one in planned):
        notes.append(
            f"The number of captions is not known until the data are prepared; {COMMON_CAPTIONS} per image are assumed"
        )
    return planned, notes


@dataclass(frozen=True)
class _Estimate:
    """The memory that an experiment's units of a stage need.

    Attributes:
        memory_terms: bytes by name; None: unknown.
        memory_limit_bytes: bytes that they have; None: unknown.
    """

    of: PlannedExperiment
    memory_terms: Terms | None
    memory_limit_bytes: int | None

    @property
    def peak(self) -> int:
        """Bytes; -1 if unknown."""
        return -1 if self.memory_terms is None else peak(self.memory_terms)

    @property
    def is_too_much(self) -> bool:
        return self.memory_terms is not None and self.memory_limit_bytes is not None and self.peak > self.memory_limit_bytes


def _needs(stages: Iterable[StageSpec], planned: list[PlannedExperiment]) -> tuple[list[Need], list[str]]:
    """The need of each stage that has units; sentences about the passes that cannot be traced."""
    needs: list[Need] = []
    # A dictionary, so that each sentence is said once.
    notes: dict[str, None] = {}
    for stage in stages:
        need, untraced = _need(stage, planned)
        needs += [need] if need else []
        notes |= dict.fromkeys(untraced)
    return needs, list(notes)


def _need(stage: StageSpec, planned: list[PlannedExperiment]) -> tuple[Need | None, list[str]]:
    """The need of the experiment of `Need`; None if no experiment has such units. And why passes cannot be traced, or the peak
    is a lower bound."""
    estimates: list[_Estimate] = []
    notes: list[str] = []
    for one in planned:
        terms = None
        try:
            terms = one.estimator.memory(one.experiment, stage)
        except ConfigError as error:
            notes.append(str(error))
        # No terms: the experiment has no such units.
        if terms is None or terms:
            notes += [LOWER_BOUND.format(name) for name in _without_costs(stage, one.experiment)]
            estimates.append(_Estimate(one, terms, memory_limit(stage.resources(one.experiment))))
    if not estimates:
        return None, notes
    most = max(estimates, key=lambda estimate: (estimate.is_too_much, estimate.peak))
    experiment, data, estimator = most.of.experiment, most.of.data, most.of.estimator
    limit = most.memory_limit_bytes

    need = Need(
        stage=stage,
        experiment=experiment.name,
        memory_terms=most.memory_terms,
        is_lower_bound=bool(_without_costs(stage, experiment)),
        memory_limit_bytes=limit,
        host_memory_bytes=stage.host_memory(experiment, estimator.trace, data) if stage.host_memory and data else None,
        traffic=stage.traffic(experiment, estimator.trace, data, None) if stage.traffic else None,
        dataset_size_is_measured=data is not None and data.measured,
        suggestion=suggest(experiment, stage, limit, estimator) if limit is not None and most.is_too_much else None,
    )
    return need, notes


def _sharing(graph: StudyGraph, until: str | None) -> Sharing:
    return Sharing(len(graph.graphs), len(graph.shared(until)), graph.count_without_sharing(until))


def _without_costs(stage: StageSpec, experiment: Experiment) -> list[str]:
    return objectives_without_costs(experiment) if stage.kind == "distillation" else []


def _model_size(planned: PlannedExperiment) -> ModelSize:
    trace = planned.estimator.trace(planned.experiment.model, planned.experiment.data.image_size)
    return ModelSize(trace.parameters, trace.trainable, sum(trace.trainable_bytes.values()))
