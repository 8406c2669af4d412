"""The Grafana dashboard uses exactly the metrics that a run registers."""

import json
import math
import re
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest

from tests.cluster.recipes import CLUSTER
from vldd_dist.events import Progress, UnitFinished, UnitReported, UnitRetried, UnitStarted
from vldd_dist.monitoring.live.run_state import RunState
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.ray_backend import metrics as ray_metrics
from vldd_dist.ray_backend.metrics import RayMetrics

DASHBOARD = json.loads((CLUSTER / "grafana/vldd.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
QUERIES = [variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"]
# Labels that Ray adds to every metric.
COMMON = {"SessionName", "instance"}
# The suffixes of the series that Prometheus makes of a histogram; buckets have the label `le`.
OF_A_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


class Registered:
    """Replaces Ray's metric classes, and records the metrics and the labels that they are set with."""

    labels: ClassVar[dict[str, set[str]]] = {}
    values: ClassVar[dict[tuple[str, ...], list[float]]] = {}

    def __init__(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] = (), boundaries: list[float] | None = None
    ) -> None:
        self.name = name
        self.labels[name] = set(tag_keys) | ({"le"} if boundaries else set())

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags.keys() == self.labels[self.name] - {"le"}
        self.values.setdefault((self.name, *tags.values()), []).append(value)

    inc = observe = set


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The labels of each metric, by the name under which Prometheus knows it."""
    monkeypatch.setattr(Registered, "labels", {})
    monkeypatch.setattr(Registered, "values", {})
    for kind in ("Gauge", "Counter", "Histogram"):
        monkeypatch.setattr(ray_metrics, kind, Registered)
    clock = count(0, 2 * ray_metrics.METRICS_SECONDS)
    state = RunState([RayMetrics("scenes")], lambda: float(next(clock)))
    unit = WorkUnit("expert", {"index": 0}, label="expert 0")
    state.begin([unit], set())
    state.event(UnitStarted(unit.id))
    state.event(UnitReported(unit.id, Progress(1, 2, **dict.fromkeys(ray_metrics.UNIT_GAUGES, 1.0))))
    state.refresh()
    state.event(UnitRetried(unit.id, "lost", "its machine ended"))
    state.refresh()
    state.event(UnitStarted(unit.id))
    state.event(UnitFinished(unit.id, 90.0))
    state.refresh()
    return {f"ray_{name}": labels for name, labels in Registered.labels.items()}


def metrics_in(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression with the labels that select among them."""
    found = re.findall(r"\b(ray_\w+)(?:\{([^}]*)\})?", expression)
    return {name: set(re.findall(r"(\w+)=", selectors)) for name, selectors in found}


def test_the_panels_use_the_metrics_that_a_run_registers(registered: dict[str, set[str]]) -> None:
    drawn: set[str] = set()
    for expression in EXPRESSIONS + QUERIES:
        for name, selected in metrics_in(expression).items():
            if "vldd" in name:
                name = OF_A_HISTOGRAM.sub("", name)
                drawn.add(name)
                assert selected - COMMON <= registered[name], expression
                (grouped,) = re.findall(r"\bby \((.*?)\)", expression) or [""]
                assert set(re.findall(r"\w+", grouped)) - COMMON <= registered[name], expression
                assert "experiment" in selected or "label_values" in expression
    assert drawn == registered.keys()


def test_of_an_ended_unit_only_the_duration_metric_remains(registered: dict[str, set[str]]) -> None:
    assert all("experiment" in labels for labels in registered.values())
    for gauge in ray_metrics.UNIT_GAUGES.values():
        first, *last = Registered.values[gauge, "scenes", "expert 0"]
        assert first == 1
        assert [math.isnan(value) for value in last] == [True]
    assert Registered.values["vldd_unit_seconds", "scenes", "expert"] == [90.0]
    assert Registered.values["vldd_retries_total", "scenes"] == [1], "all retries are counted together, whatever their texts"


def test_other_metrics_are_rays_own() -> None:
    import ray

    folder = Path(ray.__file__).parent / "dashboard/modules"
    known = "\n".join(path.read_text() for path in [*folder.glob("metrics/dashboards/*.py"), *folder.glob("reporter/*.py")])
    for expression in EXPRESSIONS + QUERIES:
        for name in metrics_in(expression):
            assert "vldd" in name or re.search(rf'\b{name}\b|"{name.removeprefix("ray_")}"', known), name


def test_every_panel_is_drawn_from_the_chosen_source_and_session() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert 'SessionName=~"$SessionName"' in target["expr"]
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= VARIABLES.keys()
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            (grouped,) = set(re.findall(r"\bby \((.*?)\)", target["expr"])) or {""}
            assert legend <= set(re.findall(r"\w+", grouped)), panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
