"""The files in a folder."""

from pathlib import Path


def tree(folder: str | Path) -> dict[str, bytes]:
    """The content of each file at any depth, by its path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
