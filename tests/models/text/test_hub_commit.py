"""A text encoder of a hub is read from one commit, which its identity names."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from tests.models.text.small_encoders import made_with, saved_bert
from vldd_dist import build_text_encoder
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import DataError
from vldd_dist.models.text.encoder import FrozenTextEncoder

TEXT = TextTowerSettings(model="me/bert")
COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def main_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of a model in the hub's cache, without a network; the main branch is in this file."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--me--bert"
    for seed, commit in enumerate(COMMITS):
        saved_bert(folder / "snapshots" / commit, seed)
    (folder / "refs").mkdir()
    return folder / "refs" / "main"


def test_the_commit_is_in_the_identity_and_the_files_are_listed(main_branch: Path) -> None:
    encoders = []
    for commit in COMMITS:
        main_branch.write_text(commit)
        encoders.append(FrozenTextEncoder(TEXT, torch.device("cpu")))
    one, other = encoders
    assert [encoder.identity["commit"] for encoder in encoders] == COMMITS
    assert one.identity["revision"] is None
    assert one.files.keys() >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert [name for name in one.files if one.files[name] != other.files[name]] == ["model.safetensors"]


def test_a_sets_encoder_is_that_of_its_commit(main_branch: Path) -> None:
    main_branch.write_text(COMMITS[0])
    shown = made_with(TEXT)
    before = build_text_encoder(shown).encode(["a star"], 1)
    main_branch.write_text(COMMITS[1])
    assert torch.equal(build_text_encoder(shown).encode(["a star"], 1), before)
    # The recipe of an older set has no commit.
    del shown.recipe.text_encoder["commit"]
    assert not torch.equal(build_text_encoder(shown).encode(["a star"], 1), before)


@pytest.mark.parametrize("commit", [5, "../../x", "main"])
def test_a_commit_that_is_none_is_refused(commit: object, main_branch: Path) -> None:
    main_branch.write_text(COMMITS[0])
    shown = made_with(TEXT)
    shown.recipe.text_encoder["commit"] = commit
    with pytest.raises(DataError, match=r"the set's recipe: text_encoder\.commit: .* is not a commit: if you have the encoder"):
        build_text_encoder(shown)
