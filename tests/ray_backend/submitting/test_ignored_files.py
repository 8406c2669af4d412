"""Files that a submission does not send although they are no secrets: local stores, and what ignore files list."""

from pathlib import Path

import pytest

from tests.ray_backend.submitting.test_secret_files import NOBODY, fill, sent
from vldd_dist.artifacts.units import STORE_MARK
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend.submitting.ignored_files import local_stores
from vldd_dist.ray_backend.submitting.submit import submit


def test_a_local_store_is_not_sent(tmp_path: Path) -> None:
    root = tmp_path / "work"
    files = {"config.yaml", "first/experiment.yaml", "first/data.csv", "a1/captions.csv"}
    blob = f"blobs/aa/{'a' * 64}"
    fill(root, [*files, *(f"{store}/{name}" for store in ("first/store", "a[1]*") for name in (STORE_MARK, blob))])
    assert sent(root, tmp_path / "package.zip") == files


def test_ignored_folders_are_not_searched_for_stores(tmp_path: Path) -> None:
    fill(tmp_path, [f"data/store/{STORE_MARK}", f"kept/store/{STORE_MARK}"])
    (tmp_path / ".gitignore").write_text("/data/\n")
    assert local_stores(tmp_path) == ["/kept/store"]


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
