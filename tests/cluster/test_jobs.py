"""An experiment submitted by `vldd submit` to a cluster of several raylets, which loses nodes, drivers and jobs."""

import shutil
from pathlib import Path

import pytest
from ray.job_submission import JobStatus

from tests.cluster.local_cluster import PRESET, LocalCluster, arguments_of
from tests.cluster.main_job import LONGEST, RANKS, checkpoints, result, with_its_data
from vldd_dist.artifacts.runs.run_status import read_statuses
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.ray_backend.submitting.submit import submission_name
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of
from vldd_dist.testing.experiments.tiny_units import digests

pytestmark = pytest.mark.ray


def test_jobs_give_the_same_set_after_losses_of_nodes_and_drivers(
    cluster: LocalCluster, undisturbed_longest: Path, tmp_path: Path
) -> None:
    store = with_its_data(tmp_path / "store", undisturbed_longest)
    job, printed = cluster.submit(store, LONGEST)
    assert job == submission_name(load_experiment(PRESET, LONGEST), str(store)) + "-1"
    assert f"RAY_API_SERVER_ADDRESS={cluster.dashboard} ray job logs --follow {job}" in printed
    cluster.wait(job, lambda: bool(checkpoints(store, "expert")))
    assert cluster.submit(store, LONGEST)[1].startswith(f"{job} is already running")
    # Lose a node while experts train, and the driver during the distillation.
    cluster.lose_the_node_of("UnitActor")
    cluster.wait(job, lambda: "ray_vldd_units{" in (page := cluster.metrics()) and "ray_vldd_retries_total{" in page)
    cluster.wait(job, lambda: bool(checkpoints(store, "distillation")))
    logs = cluster.client.get_job_logs(job)
    assert "retried: its process or machine ended" in logs
    assert "\x1b" not in logs
    assert "Raylet is terminated" not in logs, "Ray's report of a lost node, of thirty lines, is not printed"
    (driver,) = [
        process for process in cluster.processes("vldd_dist.cli") if arguments_of(process)[1:3] == ["-m", "vldd_dist.cli"]
    ]
    driver.kill()
    assert cluster.ends(job) == JobStatus.FAILED
    (status,) = read_statuses(Store(str(store)))
    assert status.state == "running", "the last status that the driver wrote"

    # Stopped by signal.
    job, printed = cluster.submit(store, LONGEST)
    assert printed.startswith(f"{job} submitted")
    assert job.endswith("-2")
    # Not its process: that of the job whose driver was killed may still be there.
    cluster.wait(job, lambda: "distillation 4 pairs seed 0: started" in cluster.client.get_job_logs(job))
    cluster.client.stop_job(job)
    assert cluster.ends(job) == JobStatus.STOPPED
    assert "run the same command to resume" in cluster.client.get_job_logs(job)
    (status,) = read_statuses(Store(str(store)))
    assert status.state == "stopped"

    # Lose a node during the distillation.
    job, _ = cluster.submit(store, LONGEST)
    cluster.wait(job, lambda: bool(cluster.processes("ray::distillation")))
    cluster.lose_the_node_of("ray::distillation")
    assert cluster.ends(job) == JobStatus.SUCCEEDED, cluster.client.get_job_logs(job)
    assert "distillation 4 pairs seed 0: retried: its process or machine ended" in cluster.client.get_job_logs(job)
    assert result(store) == result(undisturbed_longest)
    (status,) = read_statuses(Store(str(store)))
    assert status.state == "done"
    assert {(stage.done, stage.failed) for stage in status.stages.values()} == {
        (stage.total, 0) for stage in status.stages.values()
    }

    # No node has replaced the package that is the working directory of another node's workers.
    session = Path(cluster.nodes.head_node.get_session_dir_path())
    packages = [path.parents[1].name for path in session.glob("*/working_dir_files/_ray_pkg_*") if path.is_dir()]
    assert len(set(packages)) >= 3, packages


@pytest.mark.ranks
def test_a_group_of_ranks_that_loses_a_node_resumes_on_other_nodes(
    cluster: LocalCluster, before_distillation: Path, distilled_on_ranks: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(before_distillation, store)
    (unit,) = units_of(experiment(*RANKS), "distillation")
    job, _ = cluster.submit(store, RANKS)
    cluster.wait(job, lambda: bool(checkpoints(store, "distillation")))
    ranks = cluster.processes("RankActor.run")
    assert len({rank.ppid() for rank in ranks}) == len(ranks) == 2, "each on a node of its own"
    cluster.lose_the_node_of("RankActor.run")
    cluster.wait(job, lambda: is_done(Store(str(store)), unit.kind, unit.id))
    # What follows needs no ranks.
    cluster.client.stop_job(job)
    cluster.ends(job)
    assert f"{unit.label}: retried: " in cluster.client.get_job_logs(job)
    assert digests(Store(str(store)), unit) == digests(Store(str(distilled_on_ranks)), unit)
