"""Units that are stopped or killed resume, and give bit-identical results."""

from collections.abc import Callable
from typing import Any

import pytest

from vldd_dist.artifacts.units import is_done
from vldd_dist.errors import InterruptedRun
from vldd_dist.events import Progress, UnitReport
from vldd_dist.pipeline.execute import execute
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of
from vldd_dist.testing.experiments.tiny_units import digests


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_a_distillation_that_is_asked_to_stop_stores_where_it_is(
    steps: int, finished: Store, without: Callable[[str], Store]
) -> None:
    store, (unit,) = without("distillation"), units_of(experiment(), "distillation")
    done: list[int] = []

    def report(event: UnitReport) -> None:
        assert isinstance(event, Progress)
        done.append(event.done)

    with pytest.raises(InterruptedRun, match=f"stopped after {steps} outer steps"):
        execute(unit.order(), store, report, should_stop=lambda: len(done) == steps)
    assert not is_done(store, unit.kind, unit.id)
    run(store, [unit], report)
    assert done == [1, 2, 3, 4, 5, 6]
    assert digests(store, unit) == digests(finished, unit)


class Killed(BaseException):
    """Simulates the death of a process within the process."""


@pytest.mark.parametrize("kind", ["expert", "distillation"])
def test_a_unit_killed_anywhere_gives_bit_identical_results(
    kind: str, finished: Store, without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after a few store operations and is started again, until the unit is done."""
    store, unit = without(kind), units_of(experiment(), kind)[-1]
    originals = {name: getattr(Store, name) for name in ("write", "create", "delete")}
    left = [0]

    def mortal(name: str) -> Callable[..., Any]:
        def operation(self: Store, *arguments: Any) -> Any:
            result = originals[name](self, *arguments)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return result

        return operation

    for name in originals:
        monkeypatch.setattr(Store, name, mortal(name))
    deaths, patience = 0, 3
    while not is_done(store, unit.kind, unit.id):
        left[0] = patience
        try:
            execute(unit.order(), store, lambda event: None)
        except Killed:
            deaths += 1
            # A checkpoint takes several operations, so that each attempt may do some more operations than the last.
            patience += 1
    assert deaths >= 3
    assert digests(store, unit) == digests(finished, unit)


def test_a_unit_killed_in_the_middle_of_an_epoch_gives_bit_identical_results(
    finished: Store, without: Callable[[str], Store]
) -> None:
    store, unit = without("expert"), units_of(experiment(), "expert")[0]
    events = 0

    def report(event: UnitReport) -> None:
        nonlocal events
        events += 1
        if events == 5:
            raise Killed

    with pytest.raises(Killed):
        execute(unit.order(), store, report)
    epochs: list[int | None] = []

    def note_epoch(event: UnitReport) -> None:
        assert isinstance(event, Progress)
        epochs.append(event.epoch)

    execute(unit.order(), store, note_epoch)
    assert epochs == [2, 2, 2, 3, 3, 3], "it resumes after the first epoch; training from scratch would give equal results too"
    assert digests(store, unit) == digests(finished, unit)
