"""Presets by name: descriptions that come with the package (`jobs/presets/` in the repository)."""

from pathlib import Path

PACKAGE = Path(__file__).parents[2]
# In an installed package; in a repository that was uploaded without its symbolic links.
FOLDERS = (PACKAGE / "presets", PACKAGE.parent / "jobs" / "presets")


def preset_names() -> list[str]:
    """Every name that `vldd run NAME` knows."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


def preset_path(name: str) -> Path | None:
    """The preset's file; None if there is no preset of this name."""
    return next((path for folder in FOLDERS if name in preset_names() and (path := folder / f"{name}.yaml").is_file()), None)
