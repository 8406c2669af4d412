"""What a run would do and take, as values: `show_plan` prints them, `document` makes JSON of them."""

from collections import Counter
from dataclasses import dataclass

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load_study import LoadedStudy
from vldd_dist.cost_model.io_model import DataSize, Traffic, data_size, text_dim
from vldd_dist.cost_model.memory_model import Terms, peak
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.graphs.experiment import Graph, make_graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.pipeline.stage import StageSpec, all_stages
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.stated_data import with_stated_data
from vldd_dist.planner.suggestions import memory_limit, suggest
from vldd_dist.planner.work import Planned, Work, count_work
from vldd_dist.store.store import Store


@dataclass(frozen=True)
class StageUnits:
    """Units of one kind; `workers` of one unit, `cpus` and `gpus` of one worker."""

    stage: StageSpec
    units: int
    done: int
    workers: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Need:
    """What one unit of a stage takes; of several experiments the one that takes most.

    Attributes:
        terms: a rank's memory at its worst moment, by what takes it; none: its passes cannot be traced.
        limit: bytes of its GPU for tensors; none: no GPU is described.
        moved: none where it is not estimated.
        measured: the dataset's size, in `moved`, was read in the store.
        mend: what to set, where it does not fit.
    """

    stage: StageSpec
    experiment: str
    terms: Terms | None
    limit: int | None
    moved: Traffic | None
    measured: bool
    mend: str | None


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters, and bytes of a snapshot of those that are trained."""

    parameters: int
    trainable: int
    snapshot: int


@dataclass(frozen=True)
class Sharing:
    """Of a study: its variants, units of more than one, and units if each variant had a store of its own."""

    variants: int
    shared: int
    asked: int


@dataclass(frozen=True)
class Plan:
    """`model` of an experiment, `sharing` of a study; `notes`: sentences on what is assumed or not known."""

    name: str
    store: str
    stages: list[StageUnits]
    model: ModelSize | None
    sharing: Sharing | None
    needs: list[Need]
    work: dict[StageSpec, Work]
    notes: list[str]


def plan(described: Experiment | LoadedStudy, store: Store) -> Plan:
    """Of a run in the store, without doing it. The sources' first samples are read.

    Raises:
        DataError: none of them is usable.
    """
    is_study = isinstance(described, LoadedStudy)
    given = described.experiments if isinstance(described, LoadedStudy) else {described.name: described}
    experiments, notes = with_stated_data(given)
    study = StudyGraph(experiments) if is_study else None
    single = None if study else make_graph(experiments[described.name])
    graphs = list(study.graphs.values()) if study else [single] if single else []
    units = study.units() if study else graphs[0].units()
    done = committed_units(store, units)
    for graph in graphs:
        _check_source(graph, done)
    owners = list(study.owners()) if study else [(graphs[0], units)]
    planned = _planned(owners, done, store, notes)
    needs = [need for stage in estimated_stages() if (need := _need(stage, planned, notes))]
    work, reasons = count_work(planned)
    if any(data is None for _, _, data, _ in planned):
        notes.append("data: images and caption embeddings, whose number is known once the dataset is done")
    return Plan(
        name=described.name,
        store=store.url,
        stages=_stages(units, done),
        model=None if study else _model_size(*planned[0]),
        sharing=Sharing(len(graphs), len(study.shared()), study.asked()) if study else None,
        needs=needs,
        work=work,
        notes=[*notes, *reasons],
    )


def _check_source(graph: Graph, done: set[str]) -> None:
    """Read the source's first samples, unless it is prepared: then it need not be visible here.

    Raises:
        DataError: none of them is usable.
    """
    if graph.unit("dataset").id not in done:
        source = graph.experiment.data.source
        for split in source.own_splits():
            source.check(split)


def _stages(units: list[WorkUnit], done: set[str]) -> list[StageUnits]:
    totals = Counter(unit.kind for unit in units)
    finished = Counter(unit.kind for unit in units if unit.id in done)
    asking = {unit.kind: unit for unit in units}
    return [
        StageUnits(stage, totals[kind], finished[kind], unit.workers, unit.resources.cpus, unit.resources.gpus)
        for stage in all_stages()
        if (unit := asking.get(kind := stage.kind))
    ]


def _planned(owners: list[tuple[Graph, list[WorkUnit]]], done: set[str], store: Store, notes: list[str]) -> list[Planned]:
    """Experiment after experiment, with the units that no earlier one has."""
    estimators: dict[int, Estimator] = {}
    sizes: dict[str, DataSize | None] = {}
    assumed: dict[str, int] = {}
    found: list[Planned] = []

    def known(unit: WorkUnit) -> UnitReader | None:
        return UnitReader(store, unit.kind, unit.id) if unit.id in done else None

    for graph, own in owners:
        dataset = graph.unit("dataset")
        if dataset.id not in sizes:
            sizes[dataset.id] = data_size(graph.experiment, known(dataset))
        dim, certain = text_dim(graph.experiment.model.text, known(graph.unit("caption_embeddings")))
        if not certain:
            assumed[graph.experiment.model.text.model] = dim
        to_run = [unit for unit in own if unit.id not in done]
        found.append((graph.experiment, to_run, sizes[dataset.id], estimators.setdefault(dim, Estimator(dim))))
    notes += [f"the embeddings' size of {model} is not known here: {dim} is assumed" for model, dim in assumed.items()]
    return found


def _need(stage: StageSpec, planned: list[Planned], notes: list[str]) -> Need | None:
    """None where no experiment has such units."""
    found: list[tuple[int, int, Terms | None]] = []
    for number, (experiment, _, _, estimator) in enumerate(planned):
        try:
            terms = estimator.memory(experiment, stage)
        except ConfigError as error:
            if str(error) not in notes:
                notes.append(str(error))
            found.append((-1, number, None))
        else:
            if terms:
                found.append((peak(terms), number, terms))
    if not found:
        return None
    most, number, largest = max(found, key=lambda one: one[0])
    experiment, _, data, estimator = planned[number]
    limit = memory_limit(stage.resources(experiment))
    return Need(
        stage=stage,
        experiment=experiment.name,
        terms=largest,
        limit=limit,
        moved=stage.traffic(experiment, estimator.trace, data) if stage.traffic else None,
        measured=data is not None and data.measured,
        mend=suggest(experiment, stage, limit, estimator) if limit is not None and most > limit else None,
    )


def _model_size(experiment: Experiment, units: list[WorkUnit], data: DataSize | None, estimator: Estimator) -> ModelSize:
    trace = estimator.trace(experiment.model, experiment.data.image_size)
    return ModelSize(trace.parameters, trace.trainable, sum(trace.trainable_bytes.values()))
