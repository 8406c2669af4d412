"""A user's files around a case, which are compared before and after it."""

import os
from hashlib import sha256
from pathlib import Path

from vldd_dist.testing.bad_input.case import Case


def lay_out_user_files(root: Path) -> Path:
    """Write a user's files in and around the working directory, some with names that commands use. Returns the directory."""
    mine = {
        "neighbour/secret.txt": b"not for others",
        "neighbour/secret.png": b"\x89PNG mine",
        "work/notes.txt": b"years of work",
        "work/paper.partial/chapter.tex": b"more years",
        "work/units/kind/id/attempt/object": b"mine",
        "work/blobs/ab/object": b"mine",
        "work/distilled/set/object": b"mine",
        "work/status.json": b"mine",
    }
    for name, data in mine.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root / "work"


def files_of(root: Path) -> dict[str, str]:
    """Path below the root -> its content: the digest of a file, the target of a link, or the word for a folder or a pipe."""
    contents = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            contents[name] = f"link {os.readlink(path)}"
        elif path.is_file():
            contents[name] = sha256(path.read_bytes()).hexdigest()
        else:
            contents[name] = "folder" if path.is_dir() else "special"
    return contents


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]


def is_free(path: str, case: Case) -> bool:
    """Whether the command was allowed to change this path."""
    return any(path == f"work/{allowed}" or path.startswith(f"work/{allowed}/") for allowed in case.may_change)
