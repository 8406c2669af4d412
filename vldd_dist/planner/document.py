"""A plan as one JSON document: bytes, hours and counts; null means that a figure is not known."""

from typing import Any

from vldd_dist.cost_model.memory_model import RESERVED, peak
from vldd_dist.planner.plan import Need, Plan, fits
from vldd_dist.planner.work import CORE_SUSTAINED, GPU_SUSTAINED, Work


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    return {
        "name": plan.name,
        "store": plan.store,
        "stages": [
            {
                "kind": one.stage.kind,
                "title": one.stage.title,
                "units": one.units,
                "done": one.done,
                "to_run": one.units - one.done,
                "workers": one.workers,
                "cpus": one.cpus,
                "gpus": one.gpus,
            }
            for one in plan.stages
        ],
        "model": plan.model
        and {
            "parameters": plan.model.parameters,
            "trainable": plan.model.trainable,
            "snapshot_bytes": plan.model.snapshot,
        },
        "sharing": plan.sharing and vars(plan.sharing),
        "needs": [_need(need) for need in plan.needs],
        "work": [{"kind": stage.kind, **_work(one)} for stage, one in plan.work.items()],
        "total": _work(sum(plan.work.values(), Work())),
        # With them, operations become hours, which hold no time for decoding, uploads and waiting.
        "assumed": {"gpu_flops_per_second": GPU_SUSTAINED, "core_flops_per_second": CORE_SUSTAINED},
        "notes": plan.notes,
    }


def _need(need: Need) -> dict[str, Any]:
    peak_bytes = None if need.memory_terms is None else peak(need.memory_terms)
    traffic = need.traffic
    of_data = {
        "host_memory_bytes": need.host_memory_bytes,
        "reads_bytes": None if traffic is None or traffic.data is None else traffic.reads + traffic.data,
    }
    return {
        "kind": need.stage.kind,
        "experiment": need.experiment,
        "peak_bytes": peak_bytes,
        "peak_is_lower_bound": need.is_lower_bound,
        "peak_of": need.memory_terms,
        "gpu_memory_bytes": None if need.memory_limit_bytes is None else need.memory_limit_bytes + RESERVED,
        "fits": fits(need),
        "suggestion": need.suggestion,
        **of_data,
        # Those that are estimates because the size of the data set is one.
        "of_estimated_dataset": [] if need.dataset_size_is_measured else [key for key in of_data if of_data[key] is not None],
        "writes_bytes": traffic and traffic.writes,
    }


def _work(work: Work) -> dict[str, Any]:
    """The figures of the units for which they are known, and the number of units for which they are not."""
    return {
        "units": work.units,
        "unknown_units": work.unknown,
        "pflop": work.flops / 1e15,
        "gpu_hours": work.gpu_hours,
        "core_hours": work.core_hours,
        "writes_bytes": work.writes,
    }
