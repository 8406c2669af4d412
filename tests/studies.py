"""Loading studies in tests."""

from pathlib import Path

from vldd_dist.config.loading.descriptions import LoadedStudy, load_description


def load_study(path: str | Path, overrides: list[str] | None = None) -> LoadedStudy:
    """`load_description` of a study."""
    study = load_description(path, overrides)
    assert isinstance(study, LoadedStudy)
    return study
