"""What `vldd submit` and `vldd status` refuse, in one sentence; submissions themselves are in tests/cluster/test_jobs.py."""

from pathlib import Path

import pytest

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend.submitting.submit import jobs_of, next_commands, submission_name, submit

PRESET = "jobs/presets/scenes.yaml"
NOBODY = "http://127.0.0.1:9"


def test_the_name_is_that_of_the_question() -> None:
    plain, other = load_experiment(PRESET), load_experiment(PRESET, ["seed=1"])
    assert submission_name(plain, "s3://a/b") == submission_name(load_experiment(PRESET), "s3://a/b")
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


def test_a_status_names_a_cluster_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"^--address http://127.0.0.1:9: the cluster cannot be reached"):
        jobs_of("s3://bucket/a", NOBODY)


def test_what_to_type_next_can_be_typed() -> None:
    assert "vldd status 's3://bucket/a b'" in next_commands("job", NOBODY, "s3://bucket/a b")
