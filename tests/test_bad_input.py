"""Bad input on the command line: the runner detects each fault that it counts, and the fast cases pass."""

import os
import sys
from pathlib import Path
from random import Random

import pytest

from vldd_dist.errors import StoreError
from vldd_dist.testing.bad_input import run
from vldd_dist.testing.bad_input.case import Case, Kind, importing
from vldd_dist.testing.bad_input.cases.karpathy import KARPATHY, lay_out_annotations
from vldd_dist.testing.bad_input.cases.tars import SHARDS, lay_out_tars, sound_members
from vldd_dist.testing.bad_input.cases.values import dumped
from vldd_dist.testing.bad_input.kinds import KINDS
from vldd_dist.testing.bad_input.run import run_case

# `run --plan`, `submit`, `doctor` and imports take seconds each; the benchmark has them.
LIGHT = [
    "bytes_for_a_manifest",
    "changed_manifest",
    "names_in_a_manifest",
    "sizes_in_a_manifest",
    "damaged_objects",
    "cards",
    "places_for_a_fetch",
    "statuses",
    "marks_of_units",
    "hours",
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", LIGHT)
def test_bad_input_ends_well(kind: str, seed: int, tmp_path: Path) -> None:
    outcome = run_case(kind, seed, False, tmp_path)
    assert outcome.faults == (), outcome


def sound_tars(draw: Random) -> Case:
    lay_out_tars(sound_members())
    return importing([*SHARDS, "data.source.train=bad.tar"], frozenset({0}))


def sound_annotations(draw: Random) -> Case:
    Path("data.json").write_bytes(dumped(lay_out_annotations()))
    return importing(KARPATHY, frozenset({0}))


@pytest.mark.parametrize("sound", [sound_tars, sound_annotations])
def test_the_inputs_that_the_cases_change_are_valid(sound: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a source could be rejected for another reason than that of the case."""
    monkeypatch.setitem(KINDS, "sound", (1, sound))
    outcome = run_case("sound", 0, False, tmp_path)
    assert outcome.faults == (), outcome


def crash() -> None:
    raise ValueError("a mistake of ours")


def lose() -> None:
    Path("notes.txt").unlink()


def change() -> None:
    Path("../neighbour/secret.txt").write_bytes(b"changed")


def make_elsewhere() -> None:
    Path("../stolen").write_bytes(b"x")


def obey() -> None:
    print("\x1b[2J")


def end(code: int) -> None:
    sys.exit(code)


def refuse() -> None:
    error = StoreError("no")
    print(error)
    sys.exit(error.exit_code)


@pytest.mark.parametrize(
    ("command", "faults"),
    [
        (crash, ("tracebacks",)),
        (lose, ("lost_or_changed_files",)),
        (change, ("lost_or_changed_files",)),
        (make_elsewhere, ("lost_or_changed_files",)),
        (obey, ("control_characters",)),
        (lambda: end(1), ("wrong_exit_codes",)),
        (lambda: end(3), ("wrong_exit_codes",)),
        (refuse, ()),
        (lambda: Path("store/x").write_bytes(b"y"), ()),
    ],
)
def test_each_fault_is_seen(command, faults: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def planted(draw: Random) -> Case:
        Path("store").mkdir()
        return Case([], frozenset({0, 4}), ("store",))

    monkeypatch.setitem(KINDS, "planted", (1, planted))
    monkeypatch.setattr(run, "vldd", lambda arguments: command())
    assert run_case("planted", 0, False, tmp_path).faults == faults


def test_a_case_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case runs in a separate process that never ends, because its pipe has no writer."""
    os.mkfifo(tmp_path / "pipe")

    def waiting(draw: Random) -> Case:
        return Case(["config", str(tmp_path / "pipe")], frozenset({0}))

    monkeypatch.setitem(KINDS, "waiting", (1, waiting))
    monkeypatch.setattr(run, "PROCESS_LIMIT_SECONDS", 0.1)
    (tmp_path / "root").mkdir()
    outcome = run_case("waiting", 0, True, tmp_path / "root")
    assert (outcome.faults, outcome.as_process) == (("hangs",), True)
