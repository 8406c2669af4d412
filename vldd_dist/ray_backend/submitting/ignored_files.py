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
    secrets, ignored = GitIgnoreSpec.from_lines(EXCLUDES), _Ignored(root)
    for where, name in names.items():
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            continue
        place = path.relative_to(root)
        if secrets.match_file(place):
            raise ConfigError(f"{where}: {name} is named like a file with secrets, which is never uploaded: rename it")
        if not Path(name).is_absolute() and (ignore_file := ignored.by(place)):
            raise ConfigError(
                f"{where}: {name} is not uploaded, because {ignore_file} lists it: put it into the bucket and write its "
                f"URL, or change {ignore_file}"
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
    ignored, excluded, home = _Ignored(root), GitIgnoreSpec.from_lines(excludes), Path.home().resolve()
    patterns = []
    for folder, below, files in os.walk(root, followlinks=True):
        place = Path(folder).relative_to(root)
        if STORE_MARK in files and place.parts:
            patterns.append(_pattern(place))
            below.clear()
            continue
        for name in files:
            if not is_text(name) and not excluded.match_file(place / name) and not ignored.by(place / name):
                # Ray takes its error for a sign that the working directory is no folder.
                raise ConfigError(
                    f"--working-dir {root}: the file name {name!r} is not UTF-8: rename the file, or list it in .rayignore"
                )
        patterns += [_pattern(place / name) for name in files if _is_special(Path(folder, name))]
        below[:] = [
            name
            for name in below
            if not excluded.match_file(f"{place / name}/") and not ignored.by(place / name, is_folder=True)
        ]
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


class _Ignored:
    """What the ignore files in a folder, and in the folders below it, list. As for Ray, which reads them all, each is for what
    lies in its own folder and below, and none can take back what another one lists."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._specs: dict[Path, dict[str, GitIgnoreSpec]] = {}

    def by(self, place: Path, *, is_folder: bool = False) -> str | None:
        """The ignore file that lists a place in the folder, as its path in the folder; None if there is none.

        Raises:
            ConfigError: an ignore file cannot be read.
        """
        for folder in reversed(place.parents):
            inside = place.relative_to(folder).as_posix() + "/" * is_folder
            for name, spec in self._specs_of(folder).items():
                if spec.match_file(inside):
                    return (folder / name).as_posix()
        return None

    def _specs_of(self, folder: Path) -> dict[str, GitIgnoreSpec]:
        """Name of an ignore file in this folder -> its patterns."""
        if folder not in self._specs:
            files = ((name, self._root / folder / name) for name in IGNORE_FILES)
            self._specs[folder] = {name: _read(path) for name, path in files if path.is_file()}
        return self._specs[folder]


def _read(path: Path) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}): correct it") from None
