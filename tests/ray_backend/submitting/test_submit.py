"""Errors of `vldd submit` and `vldd status`. Submissions themselves are tested in tests/cluster/test_jobs.py."""

import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.dashboard.utils import get_address_for_submission_client
from ray.job_submission import JobDetails, JobStatus, JobType
from ray.scripts.scripts import cli as ray_cli
from typer.main import get_command

from tests.cli.command import vldd
from vldd_dist.cli.main import app
from vldd_dist.config.loading.descriptions import load_description
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.loading.presets import preset_path
from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend.run_options import JOB_VARIABLE, check_tracker_of_job
from vldd_dist.ray_backend.submitting.submit import jobs_of, next_commands, submission_name, submit

PRESET = "jobs/presets/scenes.yaml"
NOBODY = "http://127.0.0.1:9"


def test_the_name_depends_on_the_description_and_the_store() -> None:
    plain, other = load_experiment(PRESET), load_experiment(PRESET, ["seed=1"])
    assert submission_name(plain, "s3://a/b") == submission_name(load_experiment(PRESET), "s3://a/b/")
    assert submission_name(plain, "/a/b/") == submission_name(plain, "file:///a/b")
    names = {submission_name(plain, "s3://a/b"), submission_name(plain, "s3://a/c"), submission_name(other, "s3://a/b")}
    assert len(names) == 3
    assert all(name.startswith("vldd-scenes-") for name in names)


@pytest.mark.parametrize(
    ("store", "working_dir", "sentence"),
    [
        ("s3://bucket/a", ".", r"^--address http://127.0.0.1:9: the cluster cannot be reached"),
        ("somewhere", ".", r"^--store somewhere: a job runs in another working directory: use a URL or an absolute path"),
        ("s3://bucket/a", "{tmp}", r"scenes.yaml: is outside the working directory"),
    ],
)
def test_refusals(store: str, working_dir: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        submit(load_experiment(PRESET), PRESET, [], store, NOBODY, working_dir.format(tmp=tmp_path))


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("../base.yaml", "base: .*base.yaml: is outside the working directory"),
        ("local.yaml", "base: local.yaml is not uploaded, because .gitignore lists it"),
        ("my-secret.yaml", "base: my-secret.yaml is named like a file with secrets"),
    ],
)
def test_the_base_of_a_study_is_uploaded(base: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "work"
    root.mkdir()
    monkeypatch.chdir(root)
    (root / ".gitignore").write_text("local.yaml\n")
    (root / base).write_text(preset_path("scenes").read_text())  # type: ignore[union-attr]
    study = root / "study.yaml"

    def submit_study(base: str) -> None:
        study.write_text(f"base: {base}\nname: s\nvary:\n  seed: [0, 1]\n")
        submit(load_description(study), "study.yaml", [], "s3://bucket/a", NOBODY, str(root))

    with pytest.raises(ConfigError, match=f"^{sentence}"):
        submit_study(base)
    # A file with an absolute path may exist on the nodes, and a preset does.
    for allowed in ("scenes", str(root / base)):
        with pytest.raises(ConfigError, match="the cluster cannot be reached"):
            submit_study(allowed)


def test_a_job_keeps_its_results_in_no_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that `ray job submit` has started."""
    assert JOB_VARIABLE == RAY_JOB_CONFIG_JSON_ENV_VAR
    preset = str(Path(PRESET).resolve())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    sentence = "--store results: a job runs in another working directory: use a URL or an absolute path"
    code, _, err = vldd("run", preset, "--store", "results", capsys=capsys)
    assert (code, sentence in err, list(tmp_path.iterdir())) == (2, True, [])
    assert vldd("run", preset, "--store", "results", "--plan", capsys=capsys)[0] == 0
    code, _, err = vldd("run", preset, "--store", str(tmp_path / "results"), "--track", "tensorboard=curves", capsys=capsys)
    assert (code, "--track tensorboard=curves: a job runs in another" in err, list(tmp_path.iterdir())) == (2, True, [])


@pytest.mark.parametrize("tracker", ["tensorboard=curves", "mlflow=./mlruns"])
def test_a_job_writes_curves_to_no_relative_folder(tracker: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vldd("submit", PRESET, "--store", "s3://bucket/a", "--address", NOBODY, "--track", tracker, capsys=capsys)
    sentence = "a job runs in another working directory: use an absolute path that is shared with the cluster"
    assert (code, f"--track {tracker}: {sentence}" in err) == (2, True)
    for allowed in ("tensorboard=/shared/curves", "mlflow=/shared/mlruns", "mlflow=http://server", "mlflow=databricks"):
        check_tracker_of_job(allowed)


def test_a_status_names_a_cluster_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"^--address http://127.0.0.1:9: the cluster cannot be reached"):
        jobs_of("s3://bucket/a", NOBODY)


@pytest.mark.parametrize(
    ("arguments", "uses_it"),
    [
        ("--store s3://b/x/", True),
        ("--store=s3://b/x --wait-hours 24", True),
        ("--store s3://b/y", False),
        ("--store 's3://b", False),
        ("--store", False),
        ("--store gopher://b/x", False),
    ],
)
def test_jobs_of_ray_job_submit_are_listed_too(arguments: str, uses_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    job = JobDetails(
        type=JobType.SUBMISSION,
        submission_id="raysubmit_1",
        status=JobStatus.RUNNING,
        entrypoint=f"python -m jobs.experts scenes.yaml {arguments}",
    )
    client = SimpleNamespace(list_jobs=lambda: [job])
    monkeypatch.setattr("vldd_dist.ray_backend.submitting.submit.JobSubmissionClient", lambda address: client)
    assert jobs_of("s3://b/x", NOBODY) == ["job raysubmit_1: RUNNING"] * uses_it


@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_cluster_is_the_named_one_and_not_that_of_rays_variables(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    def client(address: str) -> None:
        named.append(get_address_for_submission_client(address))
        raise ConnectionError("refused")

    monkeypatch.setenv(variable, "http://127.0.0.1:1111")
    monkeypatch.setattr("vldd_dist.ray_backend.submitting.submit.JobSubmissionClient", client)
    with pytest.raises(ConfigError, match=r"--address http://127.0.0.1:9:"):
        jobs_of("s3://bucket/a", NOBODY)
    assert named == [NOBODY]
    assert os.environ[variable] == "http://127.0.0.1:1111"


def test_the_suggested_commands_are_valid() -> None:
    """Each names a command that exists, with arguments and options that it takes."""
    tools: dict[str, Any] = {"vldd": get_command(app), "ray": ray_cli}
    seen = []
    for line in next_commands("job", NOBODY, "s3://bucket/a b").splitlines():
        # Without the line's title, a note after the command, and the variable that names the cluster.
        typed = [word for word in shlex.split(line.partition("      (")[0])[1:] if "=" not in word]
        seen.append(" ".join(typed))
        tool, name, *words = typed
        found = tools[tool].commands[name]
        if hasattr(found, "commands"):
            found, words = found.commands[words[0]], words[1:]
        found.make_context(name, words)
    jobs = ["ray job logs --follow job", "ray job stop job"]
    assert seen == [*jobs, "vldd status s3://bucket/a b", "vldd list s3://bucket/a b"]


class RunningJobs:
    """In place of Ray's client: each submitted job runs until a test gives it another status."""

    def __init__(self) -> None:
        self.jobs: list[SimpleNamespace] = []
        self.entrypoints: list[str] = []

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, submission_id: str, metadata: dict[str, str], entrypoint: str, **more: object) -> None:
        self.jobs.append(SimpleNamespace(submission_id=submission_id, status=JobStatus.RUNNING, metadata=metadata))
        self.entrypoints.append(entrypoint)


def test_a_running_job_with_other_options_is_said_to_have_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = RunningJobs()
    monkeypatch.setattr("vldd_dist.ray_backend.submitting.submit.JobSubmissionClient", lambda address: client)
    jobs, entrypoints = client.jobs, client.entrypoints

    def said(*options: str, store: str = "s3://bucket/a") -> str:
        code, out, _ = vldd("submit", PRESET, "--store", store, "--address", NOBODY, *options, capsys=capsys)
        assert code == 0
        return out.splitlines()[0]

    assert said("--max-running", "8", "--wait-hours", "24").endswith("-1 submitted")
    assert entrypoints[0].endswith("--store s3://bucket/a --max-running 8 --wait-hours 24")
    (job,) = (each.submission_id for each in jobs)
    effect = f"takes effect only if you stop it (`ray job stop {job}`), or wait for its end, and submit again"
    running = f"{job} is already running with --max-running 8 --wait-hours 24"
    assert said("--max-running", "8", "--wait-hours", "24", store="s3://bucket/a/") == f"{job} is already running"
    assert said() == f"{running}; submitting without them {effect}"
    assert jobs_of("s3://bucket/a", NOBODY) == jobs_of("s3://bucket/a/", NOBODY) == [f"job {job}: RUNNING"]
    assert said("--max-running", "1", "--track", "wandb=mine") == f"{running}; --track wandb=mine --max-running 1 {effect}"
    assert len(jobs) == 1
    assert said("--until", "experts", store="s3://bucket/b").endswith("-1 submitted")
    assert entrypoints[1].endswith("--store s3://bucket/b --until experts")
    # Else its user would wait for what follows the experts.
    assert " is already running with --until experts; submitting without them takes " in said(store="s3://bucket/b")
    jobs[1].status = JobStatus.SUCCEEDED
    assert said(store="s3://bucket/b").endswith("-2 submitted")
    assert said(store="s3://bucket/b").endswith("-2 is already running")
    assert " is already running without options; --until experts takes " in said("--until", "experts", store="s3://bucket/b")


def test_an_unknown_stage_is_refused_before_a_cluster_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vldd("submit", PRESET, "--store", "s3://bucket/a", "--address", NOBODY, "--until", "expert", capsys=capsys)
    assert (code, "--until expert: there is no such stage: choose one of data, experts" in err) == (2, True)
