"""Files that a submission does not send although they are no secrets: local stores, and what ignore files list."""

import os
import threading
from pathlib import Path

import pytest

from tests.ray_backend.submitting.sent_files import NOBODY, fill, sent
from vldd_dist.artifacts.units import STORE_MARK
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend.submitting.ignored_files import check_uploaded, never_sent
from vldd_dist.ray_backend.submitting.submit import submit
from vldd_dist.testing.experiments.tiny import HANG_SECONDS


def test_a_local_store_is_not_sent(tmp_path: Path) -> None:
    root = tmp_path / "work"
    files = {"config.yaml", "first/experiment.yaml", "first/data.csv", "a1/captions.csv"}
    blob = f"blobs/aa/{'a' * 64}"
    fill(root, [*files, *(f"{store}/{name}" for store in ("first/store", "a[1]*") for name in (STORE_MARK, blob))])
    assert sent(root, tmp_path / "package.zip") == files


def test_ignored_folders_are_not_searched_for_stores(tmp_path: Path) -> None:
    fill(tmp_path, [f"data/store/{STORE_MARK}", f"kept/store/{STORE_MARK}"])
    (tmp_path / ".gitignore").write_text("/data/\n")
    assert never_sent(tmp_path) == ["/kept/store"]


def test_ignore_files_in_folders_below_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray reads them; what they list cannot be needed, and is no reason to refuse a folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "work"
    fill(
        tmp_path, ["work/config.yaml", "work/a/w.safetensors", "work/a/b/w.safetensors", "work/w.safetensors", "home/.profile"]
    )
    (root / "a" / ".gitignore").write_text("*.safetensors\n*.tmp\n/me/\n")
    (root / "a" / "me").symlink_to(tmp_path / "home")
    (root / "a" / "b" / os.fsdecode(b"\xff.tmp")).touch()
    assert sent(root, tmp_path / "package.zip") == {"config.yaml", "w.safetensors", "a/.gitignore"}
    check_uploaded(root, {"x": "w.safetensors"})
    for needed in ("a/w.safetensors", "a/b/w.safetensors"):
        with pytest.raises(ConfigError, match=rf"^x: {needed} is not uploaded, because a/\.gitignore lists it: put it into"):
            check_uploaded(root, {"x": needed})


def test_what_links_lead_to_is_sent_without_local_stores(tmp_path: Path) -> None:
    """Ray follows links. One to a folder around it has no end."""
    root = tmp_path / "work"
    fill(
        tmp_path, ["work/config.yaml", f"disk/store/{STORE_MARK}", "disk/store/blob", "disk/data/1.jpg", f"disk/b/{STORE_MARK}"]
    )
    for link, target in {"store": "store", "data": "data", "disk": "."}.items():
        (root / link).symlink_to(tmp_path / "disk" / target)
    assert sorted(never_sent(root)) == ["/disk/b", "/disk/store", "/store"]
    assert sent(root, tmp_path / "package.zip") == {"config.yaml", "data/1.jpg", "disk/data/1.jpg"}
    (root / "data" / "again").symlink_to(root / "data")
    assert sent(root, tmp_path / "again.zip") == {"config.yaml", "data/1.jpg", "disk/data/1.jpg"}


def test_links_that_lead_to_each_other_are_not_followed_for_ever(tmp_path: Path) -> None:
    root = tmp_path / "work"
    fill(root, ["a/1.txt", "b/2.txt", f"store/{STORE_MARK}"])
    (root / "a" / "x").symlink_to(root / "b")
    (root / "b" / "y").symlink_to(root / "a")
    (root / "b" / "root").symlink_to(root)
    assert sent(root, tmp_path / "package.zip") == {"a/1.txt", "b/2.txt", "a/x/2.txt", "b/y/1.txt"}


def test_links_that_the_runtime_environment_excludes_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "work"
    fill(tmp_path, ["work/config.yaml", "home/.profile"])
    (root / "me").symlink_to(tmp_path / "home")
    (root / "jobs").mkdir()
    (root / "jobs" / "runtime_env.yaml").write_text("excludes: [me]\n")
    assert sent(root, tmp_path / "package.zip") == {"config.yaml", "jobs/runtime_env.yaml"}


def test_a_link_to_the_home_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "work"
    fill(tmp_path, ["work/a/config.yaml", "home/.profile", "home/data/1.jpg"])
    (root / "a" / "data").symlink_to(tmp_path / "home" / "data")
    assert never_sent(root) == []
    for target in (tmp_path / "home", tmp_path, Path("/")):
        (root / "a" / "me").symlink_to(target)
        with pytest.raises(ConfigError, match=rf"^--working-dir {root}: a/me is a link to {target}, which contains your home"):
            never_sent(root)
        (root / ".rayignore").write_text("me/\n")
        assert never_sent(root) == []
        (root / ".rayignore").unlink()
        (root / "a" / "me").unlink()


def test_what_is_no_file_is_not_sent(tmp_path: Path) -> None:
    """Opening a FIFO waits for its other end."""
    root = tmp_path / "work"
    fill(root, ["config.yaml", "a/b.txt"])
    os.mkfifo(root / "a" / "pipe[1]")
    found: list[set[str]] = []
    thread = threading.Thread(target=lambda: found.append(sent(root, tmp_path / "package.zip")), daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    assert found == [{"config.yaml", "a/b.txt"}]


@pytest.mark.parametrize("ignore_file", [".rayignore", ".gitignore"])
def test_a_needed_file_that_is_ignored_is_refused(ignore_file: str, tmp_path: Path) -> None:
    fill(tmp_path, ["config.yaml", "weights.safetensors"])
    (tmp_path / ignore_file).write_text("*.safetensors\n")

    def submit_with(weights: str) -> None:
        experiment = load_experiment("jobs/presets/scenes.yaml", [f"model.image.weights={weights}"])
        submit(experiment, str(tmp_path / "config.yaml"), [], "s3://a/b", NOBODY, str(tmp_path))

    with pytest.raises(ConfigError, match=rf"^model\.image\.weights: weights\.safetensors is not uploaded, .*{ignore_file}"):
        submit_with("weights.safetensors")
    with pytest.raises(ConfigError, match="cannot be reached"):
        # The nodes may have the same folder.
        submit_with(str(tmp_path / "weights.safetensors"))
    (tmp_path / ignore_file).write_text("config.yaml\n")
    with pytest.raises(ConfigError, match=rf"^the description: config\.yaml is not uploaded, because {ignore_file} lists it"):
        submit_with("weights.safetensors")
