"""Files of a working directory that are not uploaded, although they are no secrets: those that its ignore files list, and local
stores."""

import os
import re
from pathlib import Path

from pathspec import GitIgnoreSpec

from vldd_dist.artifacts.units import STORE_MARK
from vldd_dist.errors import ConfigError, first_line

# Ray reads both, also in folders below.
IGNORE_FILES = (".rayignore", ".gitignore")


def check_not_ignored(root: Path, names: dict[str, str]) -> None:
    """Refuse a description that names a file of the working directory that is not uploaded. A file with an absolute path may
    exist on the nodes too.

    Args:
        names: key of the description -> path of a file, absolute or relative to `root`.

    Raises:
        ConfigError: it names such a file.
    """
    specs = _ignore_specs(root)
    for where, name in names.items():
        path = (root / name).resolve()
        if Path(name).is_absolute() or not path.is_relative_to(root) or not path.is_file():
            continue
        for ignore_file, spec in specs.items():
            if spec.match_file(path.relative_to(root)):
                raise ConfigError(
                    f"{where}: {name} is not uploaded, because {ignore_file} lists it: put it into the bucket and write its "
                    f"URL, or change {ignore_file}"
                )


def local_stores(root: Path) -> list[str]:
    """A pattern, as in .gitignore, for each local store below the folder. Ignored folders are not searched."""
    specs = _ignore_specs(root).values()
    patterns = []
    for folder, below, files in os.walk(root):
        place = Path(folder).relative_to(root)
        if STORE_MARK in files and place.parts:
            patterns.append("/" + re.sub(r"([][*?!#\\])", r"\\\1", place.as_posix()))
            below.clear()
        below[:] = [name for name in below if not any(spec.match_file(f"{place / name}/") for spec in specs)]
    return patterns


def _ignore_specs(root: Path) -> dict[str, GitIgnoreSpec]:
    """Name of an ignore file at the top of the folder -> its patterns."""
    specs = {}
    for name in IGNORE_FILES:
        if (root / name).is_file():
            try:
                specs[name] = GitIgnoreSpec.from_lines((root / name).read_text(encoding="utf-8").splitlines())
            except (OSError, ValueError) as error:
                raise ConfigError(f"{root / name}: cannot be read ({first_line(error)}): correct it") from None
    return specs
