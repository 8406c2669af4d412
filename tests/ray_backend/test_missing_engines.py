"""A run that needs DeepSpeed, which is not installed, or a newer torch."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend import run
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of


def test_a_sharded_run_is_refused_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    tree, store = experiment("experts.sharding=zero1"), Store(str(tmp_path))
    with pytest.raises(ConfigError, match=r"^sharding: .* needs DeepSpeed: pip install 'vldd_dist\[zero\]', or choose fsdp$"):
        run.run_description(tree, store, Console(quiet=True))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "before anything is written"
    # A finished run only writes its report.
    monkeypatch.setattr(run, "missing_units", lambda store, units: [])
    run._refuse_what_cannot_run(units_of(tree, "expert"), store)


def test_a_run_that_torch_cannot_shard_is_refused_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.distributed.fsdp.FSDPModule.set_force_sum_reduction_for_comms", raising=False)
    with pytest.raises(ConfigError, match=r"^sharding: fsdp needs a newer torch than .*: update it, or choose zero3$"):
        run.run_description(experiment("distill.sharding=fsdp"), Store(str(tmp_path)), Console(quiet=True))
