"""Presets by name: descriptions that come with the package (`jobs/presets/` in the repository)."""

from pathlib import Path

PACKAGE = Path(__file__).parents[2]
# The first is the package's own; the second serves a copy of the repository in which symbolic links were lost.
FOLDERS = (PACKAGE / "presets", PACKAGE.parent / "jobs" / "presets")


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


def preset_path(name: str) -> Path | None:
    """The preset's file; None if there is no preset of this name."""
    return next((path for folder in FOLDERS if name in preset_names() and (path := folder / f"{name}.yaml").is_file()), None)
