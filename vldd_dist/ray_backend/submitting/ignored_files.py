"""Files of a working directory that are not uploaded, although they are no secrets: those that its ignore files list, local
stores, and what is neither a file nor a folder."""

import itertools
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from vldd_dist.artifacts.units import STORE_MARK
from vldd_dist.control_characters import is_text
from vldd_dist.errors import ConfigError, first_line
from vldd_dist.ray_backend.submitting.secret_files import EXCLUDES

# Ray reads both, also in folders below.
IGNORE_FILES = (".rayignore", ".gitignore")


def check_uploaded(root: Path, names: dict[str, str]) -> None:
    """Refuse a description that names a file of the working directory that is not uploaded: one that looks like a secret, or
    one that an ignore file lists. A file of the latter kind with an absolute path may exist on the nodes too.

    Args:
        names: key of the description -> path of a file, absolute or relative to `root`.

    Raises:
        ConfigError: it names such a file.
    """
    secrets, specs = GitIgnoreSpec.from_lines(EXCLUDES), _ignore_specs(root)
    for where, name in names.items():
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            continue
        place = path.relative_to(root)
        if secrets.match_file(place):
            raise ConfigError(f"{where}: {name} is named like a file with secrets, which is never uploaded: rename it")
        ignoring = [ignore_file for ignore_file, spec in specs.items() if spec.match_file(place)]
        if ignoring and not Path(name).is_absolute():
            raise ConfigError(
                f"{where}: {name} is not uploaded, because {ignoring[0]} lists it: put it into the bucket and write its "
                f"URL, or change {ignoring[0]}"
            )


def never_sent(root: Path, excludes: Sequence[str] = ()) -> list[str]:
    """A pattern, as in .gitignore, for everything below the folder that is not sent although no ignore file lists it: local
    stores, what is neither a file nor a folder (Ray would wait for ever for the other end of a FIFO), and links to a folder
    around them, which have no end. Other links to folders are followed, as Ray does. Ignored folders are not searched.

    Args:
        excludes: patterns, as in .gitignore, of what is not sent in any case.

    Raises:
        ConfigError: a link leads to a folder that contains the home directory, or a file's name is not UTF-8.
    """
    specs, home = [*_ignore_specs(root).values(), GitIgnoreSpec.from_lines(excludes)], Path.home().resolve()
    patterns = []
    for folder, below, files in os.walk(root, followlinks=True):
        place = Path(folder).relative_to(root)
        if STORE_MARK in files and place.parts:
            patterns.append(_pattern(place))
            below.clear()
            continue
        for name in files:
            if not is_text(name) and not any(spec.match_file(place / name) for spec in specs):
                # Ray takes its error for a sign that the working directory is no folder.
                raise ConfigError(
                    f"--working-dir {root}: the file name {name!r} is not UTF-8: rename the file, or list it in .rayignore"
                )
        patterns += [_pattern(place / name) for name in files if _is_special(Path(folder, name))]
        below[:] = [name for name in below if not any(spec.match_file(f"{place / name}/") for spec in specs)]
        for link in [name for name in below if Path(folder, name).is_symlink()]:
            target = Path(folder, link).resolve()
            if home.is_relative_to(target):
                raise ConfigError(
                    f"--working-dir {root}: {place / link} is a link to {target}, which contains your home directory, all of "
                    "which would be uploaded: remove the link, or list it in .rayignore"
                )
            around = [Path(folder), *itertools.takewhile(lambda one: one != root.parent, Path(folder).parents)]
            if any(one.resolve().is_relative_to(target) for one in around):
                patterns.append(_pattern(place / link))
                below.remove(link)
    return patterns


def _pattern(place: Path) -> str:
    """The pattern that matches this place in the folder only."""
    return "/" + re.sub(r"([][*?!#\\])", r"\\\1", place.as_posix())


def _is_special(path: Path) -> bool:
    """Whether there is a FIFO, a socket or a device; a broken link is none."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


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
