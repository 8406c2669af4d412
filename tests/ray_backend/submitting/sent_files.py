"""The files of a folder that a submission sends."""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

from ray._private.runtime_env.packaging import create_package
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

from vldd_dist.ray_backend.submitting.submit import runtime_env

# An address at which nothing listens.
NOBODY = "http://127.0.0.1:9"


def sent(root: Path, package: Path) -> set[str]:
    """The names of files in the package that Ray makes of `root` for our runtime environment."""

    def pack(working_dir: str, excludes: list[str], is_file: bool = False) -> None:
        create_package(working_dir, package, include_gitignore=True, excludes=excludes)

    environment: dict[str, Any] = runtime_env(root)
    upload_working_dir_if_needed(environment, include_gitignore=True, upload_fn=pack)
    with ZipFile(package) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def fill(root: Path, names: list[str]) -> None:
    """Write a file at each of these paths in the folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
