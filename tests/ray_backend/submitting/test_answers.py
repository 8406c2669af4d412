"""`vldd submit` and `vldd status --address` when the dashboard refuses the upload, or a proxy answers instead of it."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.command import vldd
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend.submitting.submit import submit

TRACEBACK = "Traceback (most recent call last):\n  File 'job_head.py', line 391\n"


class Dashboard(ThreadingHTTPServer):
    """Ray's dashboard without jobs.

    Attributes:
        instead: status and text of the answer to every request; None: as Ray answers.
        of_upload: the same for an upload.
        uploads: number of uploads.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.instead: tuple[int, str] | None = None
        self.of_upload: tuple[int, str] | None = None
        self.uploads = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def log_message(self, format: str, *arguments: object) -> None:
        """Prints nothing."""

    def answer(self, status: int, text: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, text = self.server.instead or (status, text)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        if self.path.startswith("/api/packages"):
            return self.answer(404, "")
        version = {"version": "4", "ray_version": "2.60.0"}
        return self.answer(200, json.dumps([] if self.path.startswith("/api/jobs") else version))

    def do_PUT(self) -> None:
        self.server.uploads += 1
        self.answer(*(self.server.of_upload or (200, "")))

    def do_POST(self) -> None:
        self.answer(200, json.dumps({"submission_id": "x", "job_id": "x"}))


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with Dashboard() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A working directory with a description."""
    path = tmp_path / "work" / "config.yaml"
    path.parent.mkdir()
    path.write_text(Path("jobs/presets/scenes.yaml").read_text())
    return path.parent


def submitted(root: Path, address: str) -> tuple[str, str | None]:
    config = root / "config.yaml"
    return submit(load_experiment(config), str(config), [], "s3://bucket/a", address, str(root))


def test_a_working_directory_is_uploaded(dashboard: Dashboard, root: Path) -> None:
    assert submitted(root, dashboard.address)[1] is None
    assert dashboard.uploads == 1


@pytest.mark.parametrize(
    "answer",
    [
        (500, f"{TRACEBACK}aiohttp.web_exceptions.HTTPRequestEntityTooLarge: Maximum request body size 104857600 exceeded."),
        (500, f"{TRACEBACK}ValueError: Package size (512.00MiB) exceeds the maximum size of 500.00MiB."),
        (413, "<html>nginx</html>"),
    ],
)
def test_a_working_directory_that_is_too_large_is_named(answer: tuple[int, str], dashboard: Dashboard, root: Path) -> None:
    dashboard.of_upload = answer
    with pytest.raises(ConfigError, match=rf"^--working-dir {root}: its files are more than the cluster accepts .*\.rayignore"):
        submitted(root, dashboard.address)


def test_another_refusal_shows_the_clusters_error(dashboard: Dashboard, root: Path) -> None:
    dashboard.of_upload = (500, f"{TRACEBACK}RuntimeError: no space left in the control service")
    with pytest.raises(ConfigError, match=r"the cluster refused the job \(.* 500: RuntimeError: no space left in .*\)$"):
        submitted(root, dashboard.address)


def test_a_file_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit_job(**job: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/private")

    client = SimpleNamespace(list_jobs=list, submit_job=submit_job)
    monkeypatch.setattr("vldd_dist.ray_backend.submitting.submit.JobSubmissionClient", lambda address: client)
    with pytest.raises(ConfigError, match=rf"^--working-dir {root}: /data/private cannot be read \(Permission denied\)"):
        submitted(root, "http://127.0.0.1:9")


def test_a_file_whose_name_is_not_utf_8_is_named(dashboard: Dashboard, root: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (root / name).write_text("from another system")
    with pytest.raises(
        ConfigError, match=rf"^--working-dir {root}: the file name 'caf\\udce9\.txt' is not UTF-8: rename"
    ) as told:
        submitted(root, dashboard.address)
    assert str(told.value).isascii()
    (root / ".rayignore").write_text("caf*\n")
    assert submitted(root, dashboard.address)[1] is None


@pytest.mark.parametrize("answer", [(503, "upstream down"), (200, "<html>Please log in</html>")])
def test_an_answer_of_a_proxy_is_no_traceback(
    answer: tuple[int, str], dashboard: Dashboard, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dashboard.instead = answer
    with pytest.raises(ConfigError, match=rf"^--address {dashboard.address}: the cluster cannot be reached"):
        submitted(root, dashboard.address)
    code, out, err = vldd("status", str(root / "store"), "--address", dashboard.address, capsys=capsys)
    assert (code, "no experiment has run in this store" in out) == (2, True)
    assert f"{dashboard.address}: the cluster cannot be reached" in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("env_vars: {VLDD_CACHE_GIB: 64}", "env_vars.VLDD_CACHE_GIB: 64 is not a text: write it in quotes"),
        ("env_vars: [A]", "env_vars: expected a mapping of names to texts; found list"),
        ("- a", "expected a mapping with keys such as env_vars; found list"),
        ("excludes: ['!']", "excludes: Invalid git pattern: '!'"),
        ("env_vars: {A: 'b'", "cannot be read as YAML: line 1"),
        ("env_vars:\n\tA: b", "cannot be read as YAML: line 2, column 1: a tab: indent with spaces"),
        ("excludes: '*.tar'", "runtime_env['excludes'] must be of type List[str]"),
    ],
)
def test_a_wrong_runtime_environment_is_named_before_the_upload(
    text: str, sentence: str, dashboard: Dashboard, root: Path
) -> None:
    path = root / "jobs" / "runtime_env.yaml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        submitted(root, dashboard.address)
    assert str(raised.value).startswith(f"{path}: {sentence}")
    assert not dashboard.uploads
