"""One outer step of a tiny experiment's objective, on any number of ranks."""

from collections.abc import Callable

import torch

from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.objectives.outer_problem import OuterGradient
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.pipeline.work_unit import in_dependency_order
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of, workspace
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import relative

# Five pairs, so that the ranks' rows differ in number.
FIVE_PAIRS = ["distill.pairs=[5]", "model.image.head.kind=linear", "model.joint_dim=16"]


def with_inputs(store: Store, overrides: list[str]) -> Store:
    """The store, with the direct and indirect inputs of the distillation."""
    (unit,) = units_of(experiment(*overrides), "distillation")
    run(store, in_dependency_order(list(unit.inputs.values())))
    return store


def start(ranks: Ranks, url: str, overrides: list[str]) -> tuple[StageContext, DistillationContext, SyntheticPairs]:
    """A distillation run before its first outer step."""
    torch.set_num_threads(1)
    described = experiment(*overrides)
    (unit,) = units_of(described, "distillation")
    made = workspace(Store(url), unit)
    context = StageContext(made.order, made.store, made.writer, made.report, ranks)
    inputs = distillation_context(context, described.distill.distillation_settings(), context.build_model(0))
    return context, inputs, starting_pairs(inputs)[0]


def found_gradient(ranks: Ranks, url: str, overrides: list[str], step: int, before: int = 0) -> OuterGradient:
    """This rank's part of the gradient, after that many steps whose gradients are discarded."""
    _, inputs, pairs = start(ranks, url, overrides)
    with inputs.settings.objective.open(inputs) as problem:
        for earlier in range(step - before, step):
            problem.gradient(earlier, pairs)
        found = problem.gradient(step, pairs)
    return found._replace(rows=found.rows + inputs.rows.start)


def compare(
    expected: tuple[dict[str, float], list[int], dict[str, torch.Tensor]],
    group: Callable[[int], Group],
    url: str,
    overrides: list[str],
    step: int,
) -> None:
    """Compare the terms, the used rows and their gradients on one and on two ranks."""
    terms, rows, gradients = expected
    for parts in ([found_gradient(SOLO, url, overrides, step)], group(2).run(found_gradient, url, overrides, step)):
        for part in parts:
            assert list(part.terms) == list(terms)
            for name, value in terms.items():
                assert abs(part.terms[name] - value) < 2e-4 * max(abs(value), 1e-3), name
        assert torch.cat([part.rows for part in parts]).tolist() == rows
        for name, gradient in gradients.items():
            assert relative(torch.cat([part.row_gradients[name] for part in parts]), gradient) < 1e-3, name
