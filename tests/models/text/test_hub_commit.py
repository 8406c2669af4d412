"""A text encoder of a hub is read from one commit, which its identity names."""

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants

from tests.models.text.small_encoders import made_with, saved_bert
from vldd_dist import build_text_encoder
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import DataError
from vldd_dist.models.text.encoder import FrozenTextEncoder
from vldd_dist.models.text.hub_files import WEIGHTS_ELSEWHERE

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


@pytest.mark.parametrize("revision", [None, "main"])
def test_weights_that_transformers_converts(
    revision: str | None, main_branch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit without safetensors, as that of openai/clip-vit-base-patch32: they are in the pull request of the conversion."""
    commit, repository = COMMITS[0], main_branch.parents[1]
    main_branch.write_text(commit)
    text = TextTowerSettings(model="me/bert", revision=revision)
    expected = FrozenTextEncoder(text, torch.device("cpu"))
    asked = []

    def converted(name: str, **more: object) -> tuple[str, str, bool]:
        asked.append(name)
        return str(weights), "refs/pr/1", False

    # The hub answers that the commit has no safetensors.
    missing = repository / ".no_exist" / commit
    missing.mkdir(parents=True)
    for name in ("model.safetensors", "model.safetensors.index.json", "adapter_config.json"):
        (missing / name).touch()
    weights = (repository / "snapshots" / commit / "model.safetensors").rename(tmp_path / "converted.safetensors")
    monkeypatch.setattr(transformers.modeling_utils, "is_offline_mode", lambda: False)
    monkeypatch.setattr(transformers.modeling_utils, "auto_conversion", converted)
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    encoder, again = (FrozenTextEncoder(text, torch.device("cpu")) for _ in range(2))
    assert asked == ["me/bert"] * 2
    assert torch.equal(encoder.encode(["a star"], 1), expected.encode(["a star"], 1))
    assert encoder.identity == expected.identity
    assert encoder.files == again.files
    assert expected.files.keys() ^ encoder.files.keys() == {"model.safetensors", WEIGHTS_ELSEWHERE}
    # The weights of another conversion.
    weights = repository / "snapshots" / COMMITS[1] / "model.safetensors"
    other = build_text_encoder(made_with(text))
    assert [name for name in encoder.files if encoder.files[name] != other.files[name]] == [WEIGHTS_ELSEWHERE]


def test_only_files_that_are_read_are_compared(main_branch: Path) -> None:
    """The whole repository may have been downloaded."""
    snapshots = main_branch.parents[1] / "snapshots"
    shutil.copytree(snapshots / COMMITS[0], snapshots / ("c" * 40))
    for name in ("README.txt", "modules.json", "model.fp16.safetensors", "example.py"):
        (snapshots / ("c" * 40) / name).write_text("{}")
    main_branch.write_text(COMMITS[0])
    one = FrozenTextEncoder(TEXT, torch.device("cpu"))
    main_branch.write_text("c" * 40)
    assert FrozenTextEncoder(TEXT, torch.device("cpu")).files == one.files


def test_all_files_of_the_weights_are_listed(main_branch: Path) -> None:
    snapshot = main_branch.parents[1] / "snapshots" / COMMITS[0]
    model = transformers.BertModel.from_pretrained(snapshot)
    (snapshot / "model.safetensors").unlink()
    model.save_pretrained(snapshot, max_shard_size="1KB")
    main_branch.write_text(COMMITS[0])
    shards = {path.name for path in snapshot.glob("*.safetensors")}
    assert len(shards) > 1
    assert FrozenTextEncoder(TEXT, torch.device("cpu")).files.keys() >= shards


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
