"""Shortcut trajectories (PTM-ST) and separate start epochs of the towers (AMD), compared with their formulas."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distillation.small_runs import SETTINGS, Inputs, distillation, start_pairs, stopped_run
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching, TrajectoryMatchingProblem
from vldd_dist.distillation.objectives.trajectory_matching.asynchronous import Asynchronous
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import Shortcut
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.student.blending import Blending
from vldd_dist.distillation.unroll import Tensors
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
