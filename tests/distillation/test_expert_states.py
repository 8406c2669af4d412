"""Shortcut trajectories (PTM-ST) and separate start epochs of the towers (AMD), compared with their formulas."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distillation.small_runs import SETTINGS, Inputs, Snapshots, distillation, start_pairs, stopped_run
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching, TrajectoryMatchingProblem
from vldd_dist.distillation.objectives.trajectory_matching.asynchronous import Asynchronous, starts_by_pace
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import Shortcut, squared_lengths
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.distillation.unroll import Tensors
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store


def matching(inputs: Inputs, store: Store, **changes: Any) -> TrajectoryMatchingProblem:
    found = distillation(inputs, store, **changes).problem
    assert isinstance(found, TrajectoryMatchingProblem)
    return found


def pairs_of(inputs: Inputs) -> SyntheticPairs:
    return start_pairs(inputs, SETTINGS)[0]


def named(of: TrajectoryMatchingProblem, state: Tensors) -> dict[str, Tensor]:
    return dict(zip(of.unroller.student.view.names, state, strict=True))  # type: ignore[attr-defined]


def on_the_shortcut(epochs: list[dict[str, Tensor]], at: int) -> dict[str, Tensor]:
    """(1 - beta) theta_a + beta theta_b for each tensor, where beta is the share of the path's length up to the epoch."""
    found = {}
    for name in epochs[0]:
        steps = [float((b[name] - a[name]).norm()) for a, b in pairwise(epochs)]
        beta = sum(steps[:at]) / sum(steps)
        found[name] = (1 - beta) * epochs[0][name] + beta * epochs[-1][name]
    return found


@pytest.mark.parametrize("apart", [None, Asynchronous()])
def test_the_matched_parameters_lie_on_the_line_between_the_epochs(
    apart: Asynchronous | None, inputs: Inputs, store: Store
) -> None:
    """The line goes from the first to the last epoch of the slice, which extends beyond the matched epochs."""
    changes = {"shortcut": Shortcut(last_epoch=4), "asynchronous": apart, "max_start_epoch": 2}
    of = matching(inputs, store, **changes)
    seen = set()
    for step in range(12):
        drawn = of.sampler.draw(step)
        seen.add(drawn.starts)
        for state, ahead in zip(of.states.at(drawn.expert, *of._start_and_target(drawn)), (0, 1), strict=True):
            ours = named(of, state)
            for tower, start in zip(("image", "text"), drawn.starts, strict=True):
                path = [epoch[tower] for epoch in inputs.experts[drawn.expert].epochs]
                for name, tensor in on_the_shortcut(path, start + ahead).items():
                    torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6)
    assert (len(seen) > 3) is (apart is not None)
    # Not the expert's own parameters.
    own = inputs.experts[0].epochs[1]["image"]
    (state,) = of.states.at(0, (1, 1))
    assert not any(torch.allclose(named(of, state)[name], tensor, rtol=1e-3) for name, tensor in own.items())
    ends = of.states.at(0, (0, 0), (4, 4))
    for found, epoch in zip(ends, (0, 4), strict=True):
        whole = {**inputs.experts[0].epochs[epoch]["image"], **inputs.experts[0].epochs[epoch]["text"]}
        assert all(torch.equal(named(of, found)[name], tensor) for name, tensor in whole.items())


def test_a_shortcut_leaves_a_tensor_that_does_not_move_unchanged(inputs: Inputs, store: Store) -> None:
    of = matching(inputs, store, shortcut=Shortcut())
    still = [{"image": {**epoch["image"]}, "text": epoch["text"]} for epoch in inputs.experts[0].epochs]
    for epoch in still:
        epoch["image"]["image_head.bias"] = still[0]["image"]["image_head.bias"]
    of.experts._opened[0] = type(inputs.experts[0])(still)  # type: ignore[assignment]
    (state,) = of.states.at(0, (1, 1))
    assert torch.equal(named(of, state)["image_head.bias"], still[0]["image"]["image_head.bias"])
    assert all(bool(tensor.isfinite().all()) for tensor in state)


def test_each_tower_has_its_own_start_and_target_epoch(inputs: Inputs, store: Store) -> None:
    of = matching(inputs, store, asynchronous=Asynchronous(image=[0, 2], text=[1]), expert_epochs=2)
    drawn_starts = set()
    for step in range(12):
        drawn = of.sampler.draw(step)
        drawn_starts.add(drawn.starts)
        epochs = inputs.experts[drawn.expert].epochs
        for state, ahead in zip(of.states.at(drawn.expert, *of._start_and_target(drawn)), (0, 2), strict=True):
            ours = named(of, state)
            for tower, start in zip(("image", "text"), drawn.starts, strict=True):
                for name, tensor in epochs[start + ahead][tower].items():
                    assert torch.equal(ours[name], tensor)
    assert drawn_starts == {(0, 1), (2, 1)}


def test_starts_are_drawn_independently(inputs: Inputs, store: Store) -> None:
    of = matching(inputs, store, asynchronous=Asynchronous(), max_start_epoch=2)
    counts = Counter(of.sampler.draw(step).starts for step in range(900))
    assert set(counts) == {(image, text) for image in range(3) for text in range(3)}
    assert all(60 < count < 140 for count in counts.values())


def test_automatic_starts_follow_the_median_rule(inputs: Inputs, store: Store) -> None:
    """r(e) = |image step| / |text step|, averaged over the experts; image starts have r >= median, text starts r <= median."""
    run = distillation(inputs, store, asynchronous=Asynchronous(auto=True), max_start_epoch=2, outer_steps=1, validate_every=1)
    facts = run.run()
    ratios = []
    for epoch in range(3):
        ways = []
        for tower in ("image", "text"):
            lengths = []
            for expert in inputs.experts:
                before, after = expert.epochs[epoch][tower], expert.epochs[epoch + 1][tower]
                lengths.append(sum(float((after[name] - before[name]).square().sum()) for name in before) ** 0.5)
            ways.append(sum(lengths) / len(lengths))
        ratios.append(ways[0] / ways[1])
    middle = sorted(ratios)[1]
    wanted = {
        "image": [epoch for epoch in range(3) if ratios[epoch] >= middle],
        "text": [epoch for epoch in range(3) if ratios[epoch] <= middle],
    }
    assert facts.objective["starts"] == wanted
    assert len(wanted["image"]) == len(wanted["text"]) == 2
    assert isinstance(run.problem, TrajectoryMatchingProblem)
    drawn = {run.problem.sampler.draw(step).starts for step in range(200)}
    assert drawn == {(image, text) for image in wanted["image"] for text in wanted["text"]}


def test_reached_epochs_are_kept_and_read_ahead(inputs: Inputs, store: Store) -> None:
    assert TrajectoryMatching(max_start_epoch=1).reached_epochs() == {0, 1, 2}
    apart = Asynchronous(image=[0, 4], text=[2])
    assert TrajectoryMatching(asynchronous=apart, expert_epochs=3).reached_epochs() == {0, 2, 3, 4, 5, 7}
    straight = TrajectoryMatching(min_start_epoch=1, max_start_epoch=2, shortcut=Shortcut(first_epoch=0, last_epoch=7))
    assert straight.reached_epochs() == set(range(8))
    assert TrajectoryMatching(min_start_epoch=2, max_start_epoch=8, start_stride=6, shortcut=Shortcut()).reached_epochs() == {
        *range(2, 10)
    }

    asked: set[tuple[int, str]] = set()
    for changes, first, later in (
        ({"asynchronous": apart}, {(4, "image"), (5, "image"), (2, "text"), (3, "text")}, None),
        ({"shortcut": Shortcut(last_epoch=4)}, {(epoch, tower) for epoch in range(5) for tower in ("image", "text")}, {0, 4}),
    ):
        of = matching(inputs, store, **changes)
        of.awaited(0)
        asked.clear()
        for index in (0, 1):
            of.experts[index].prefetch = lambda epoch, towers: asked.update((epoch, tower) for tower in towers)  # type: ignore
        draws = [of.sampler.draw(step) for step in range(99)]
        step = next(step for step, drawn in enumerate(draws) if drawn.starts[0] in (1, 4) and drawn.expert == 0)
        of.prefetch(step)
        assert asked == first
        if later is not None:
            of.states.at(0, (1, 1))
            asked.clear()
            of.prefetch(step)
            assert {epoch for epoch, _ in asked} == later


class Counted:
    """A trajectory in memory, read through a cache with room for three of its objects, which counts what it loads."""

    def __init__(self, expert: Snapshots, number: int, cache: TensorCache, loads: Counter[tuple[int, int, str]]) -> None:
        self.expert, self.number, self.cache, self.loads = expert, number, cache, loads

    def _load(self, epoch: int, tower: str) -> dict[str, Tensor]:
        self.loads[self.number, epoch, tower] += 1
        return self.expert.snapshot(epoch, tower)

    def snapshot(self, epoch: int, tower: str) -> dict[str, Tensor]:
        return self.cache.get(f"{self.number} {epoch} {tower}", lambda: self._load(epoch, tower))

    def prefetch(self, epoch: int, towers: Sequence[str]) -> None:
        for tower in towers:
            size = sum(tensor.nbytes for tensor in self.expert.snapshot(epoch, tower).values())
            self.cache.prefetch(f"{self.number} {epoch} {tower}", size, lambda tower=tower: self._load(epoch, tower))  # type: ignore


def counting(of: TrajectoryMatchingProblem, inputs: Inputs) -> Counter[tuple[int, int, str]]:
    """How often each snapshot was loaded: (expert, epoch, tower) -> times."""
    loads: Counter[tuple[int, int, str]] = Counter()
    largest = max(sum(tensor.nbytes for tensor in tower.values()) for tower in inputs.experts[0].epochs[0].values())
    cache = TensorCache(limit_bytes=3 * largest)
    for number, expert in enumerate(inputs.experts):
        of.experts._opened[number] = Counted(expert, number, cache, loads)  # type: ignore[assignment]
    return loads


def test_a_path_that_exceeds_the_memory_is_read_once(inputs: Inputs, store: Store) -> None:
    of = matching(inputs, store, shortcut=Shortcut(last_epoch=4))
    loads = counting(of, inputs)
    of.awaited(0)
    step = next(step for step in range(99) if of.sampler.draw(step).expert == 0)
    of.prefetch(step)
    found = of.states.at(0, (1, 1))
    assert loads == {(0, epoch, tower): 1 for epoch in range(5) for tower in ("image", "text")}
    for ours, theirs in zip(found, of.states.at(0, (1, 1)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_restart_does_not_read_the_paths_again(inputs: Inputs, tmp_path: Any) -> None:
    """They are in the checkpoint, and not among the facts of the result."""
    changes = {"shortcut": Shortcut(last_epoch=4), "outer_steps": 12, "checkpoint_every": 6, "max_start_epoch": 2}
    _, facts, resumed = stopped_run(inputs, tmp_path, 8, **changes)
    of = resumed.problem
    assert isinstance(of, TrajectoryMatchingProblem)
    loads = counting(of, inputs)
    assert {of.sampler.draw(step).expert for step in range(6)} == {0, 1}
    assert resumed.run() == facts
    assert {epoch for _, epoch, _ in loads} == {0, 4}
    assert facts.objective == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("expert_epochs", [1, 2])
def test_automatic_starts_read_each_snapshot_once(expert_epochs: int, inputs: Inputs, store: Store) -> None:
    """Expert after expert, whose states are prefetched; the distances are those of pairs of snapshots, to the bit."""
    of = matching(inputs, store)
    loads = counting(of, inputs)
    asked: list[tuple[int, int]] = []
    prefetch = of.snapshots.prefetch
    of.snapshots.prefetch = lambda expert, *moments: (  # type: ignore[method-assign]
        asked.extend((expert, epoch) for epoch, _ in moments) or prefetch(expert, *moments)  # type: ignore[func-returns-value]
    )
    starts = range(3)
    found = starts_by_pace(of.snapshots, range(2), starts, expert_epochs, SOLO)
    epochs = range(3 + expert_epochs)
    assert loads == {(expert, epoch, tower): 1 for expert in range(2) for epoch in epochs for tower in ("image", "text")}
    assert asked.index((1, 0)) < len(asked) - len(epochs), "the next expert is read while this one is measured"
    ratios = []
    for start in starts:
        distances = torch.zeros(2, dtype=torch.float64)
        for expert in range(2):
            squares = squared_lengths(*of.snapshots.at(expert, (start, start), (start + expert_epochs,) * 2))
            distances += squares.new_zeros(2).index_add_(0, torch.tensor(list(of.snapshots.towers)), squares).sqrt()
        ratios.append(float(distances[0] / distances[1]))
    middle = sorted(ratios)[1]
    assert found == ([s for s in starts if ratios[s] >= middle], [s for s in starts if ratios[s] <= middle])


@pytest.mark.parametrize("gradient", ["exact", "finite_difference"])
def test_a_resumed_run_gives_bit_identical_results(gradient: str, inputs: Inputs, tmp_path: Any) -> None:
    """With all options: starts by pace, shortcuts, blended features, a running average."""
    changes = {
        "asynchronous": Asynchronous(auto=True),
        "shortcut": Shortcut(last_epoch=4),
        "blend": Blending(),
        "ema": 0.9,
        "max_start_epoch": 2,
        "batch_size": 4,
        "gradient": gradient,
        "outer_steps": 6,
        "checkpoint_every": 2,
        "validate_every": 6,
        "check_tolerance": 1.0,
    }
    whole, facts, resumed = stopped_run(inputs, tmp_path, 3, **changes)
    assert resumed.run() == facts
    assert resumed.history == whole.history
    for ours, theirs in ((resumed.pairs, whole.pairs), (resumed.best, whole.best)):
        for name, value in (theirs.rows | theirs.shared).items():
            assert torch.equal((ours.rows | ours.shared)[name], value), name
