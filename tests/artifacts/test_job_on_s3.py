"""The main job with `--store s3://...`, started by its command: its sets equal those on a local disk, another user can fetch
them, and the secret key is written nowhere."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vldd_dist import load_distilled
from vldd_dist.distilled_set.reading import published_sets
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny import HANG_SECONDS
from vldd_dist.testing.experiments.tiny_units import TINIER, digests, plan, read_everything
from vldd_dist.testing.servers.s3_server import ACCESS_KEY, SECRET, S3Server

pytestmark = pytest.mark.ray

URL = "s3://whole-job/experiments/tiny"
END = "~ the command ends ~"
# Runs the commands of the argument in one process, each as the program does, because starting a process takes seconds.
COMMANDS = f"""
import json, sys
from vldd_dist.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
    print({END!r})
"""


def command(*arguments: str, environment: dict[str, str], folder: Path) -> str:
    """The output of a command on both streams. The command must succeed."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def environment(real_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The server, a cache, and a folder for Ray's logs with a name short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="vldd-ray-", ignore_cleanup_errors=True) as ray_folder:
        yield {
            **real_server.environment,
            "VLDD_CACHE_DIR": str(tmp_path_factory.mktemp("node") / "cache"),
            "RAY_TMPDIR": ray_folder,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }


@pytest.fixture(scope="module")
def printed(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of the job."""
    folder = tmp_path_factory.mktemp("job")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        Store(URL).fs.mkdir("whole-job")
    preset = str(Path(__file__).parents[2] / "jobs/presets/scenes.yaml")
    sets = [part for override in TINIER for part in ("--set", override)]
    return command("-m", "jobs.run", preset, "--store", URL, *sets, environment=environment, folder=folder)


@pytest.fixture
def store(printed: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Store(URL)


def test_the_results_equal_those_on_a_local_disk(store: Store, finished: Store) -> None:
    read_everything(store)
    for unit in plan():
        assert digests(store, unit) == digests(finished, unit) or unit.kind == "publication", unit.label
    for folder in published_sets(finished):
        assert load_distilled(store.url_of(folder)).digest == load_distilled(finished.url_of(folder)).digest


def test_the_secret_key_is_in_no_object_log_or_output(store: Store, printed: str, environment: dict[str, str]) -> None:
    assert SECRET not in printed
    assert ACCESS_KEY not in printed
    folders = ("units", "blobs", "distilled", "report", "status", "runs")
    keys = [key for folder in folders for key in store.keys(folder)]
    assert {key.partition("/")[0] for key in keys} == set(folders)
    for key in keys:
        data = store.read(key)
        assert SECRET.encode() not in data, key
        assert ACCESS_KEY.encode() not in data, key
    files = [
        path
        for folder in (environment["RAY_TMPDIR"], environment["VLDD_CACHE_DIR"])
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    assert any(path.suffix in (".log", ".out", ".err") for path in files), "Ray's logs are among them"
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path


def test_another_user_lists_fetches_and_verifies_the_set(store: Store, environment: dict[str, str], tmp_path: Path) -> None:
    (folder, *_) = published_sets(store)
    url = store.url_of(folder)

    said = {
        ("list", URL): folder.rpartition("/")[2],
        ("verify", url): "all match the manifest",
        ("show", url): "mean",
        ("fetch", url, "here"): "4 pairs in",
        ("doctor", URL): "conditional",
        ("gc", URL, "--min-age-hours", "0"): "0 objects",
    }
    printed = command("-c", COMMANDS, json.dumps(list(said)), environment=environment, folder=tmp_path).split(END)
    # The text after the last end mark is the error stream.
    for (arguments, expected), output in zip(said.items(), printed[:-1], strict=True):
        assert expected in " ".join(output.split()), (arguments, output)
    assert load_distilled(str(tmp_path / "here")).digest == load_distilled(url).digest


def test_the_readme_example_trains_straight_from_s3(store: Store, environment: dict[str, str], tmp_path: Path) -> None:
    (folder, *_) = published_sets(store)
    (code,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    code = code.replace('"URL"', repr(store.url_of(folder)))
    code += "\nimport sys; print(losses[-1] >= 0, {'ray', 'deepspeed', 'timm', 'transformers'} & set(sys.modules))"
    assert "True set()" in command("-c", code, environment=environment, folder=tmp_path)
