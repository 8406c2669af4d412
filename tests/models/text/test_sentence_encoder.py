"""Notes on sentence encoders that embed captions otherwise than they were trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.models.text.sentence_encoder import trained_otherwise
from vldd_dist.pipeline.advice import advice_on

CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}


def folder_of(folder: Path, pooling: Any, modules: Any) -> str:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(modules))
    return str(folder)


def test_another_pooling_of_the_packaged_encoder_is_noted_before_a_run() -> None:
    overrides = ["model.text.model=minilm", "model.text.pooling=cls"]
    noted = "minilm was trained with mean pooling (1_Pooling/config.json), and embeds sentences worse with another: model.text."
    (note,) = advice_on(load_experiment("scenes", overrides))
    assert note == f"{noted}pooling is cls"
    assert advice_on(load_experiment("scenes", [*overrides, "model.text.pooling=mean"])) == []


@pytest.mark.parametrize(
    ("pooling", "own", "noted"),
    [
        (CLS, "cls", []),
        (CLS, "mean", ["was trained with cls pooling"]),
        ({"pooling_mode": "mean"}, "mean", []),
        ({"pooling_mode": "lasttoken"}, "mean", ["was trained with lasttoken pooling"]),
        (CLS | {"pooling_mode_mean_tokens": True}, "cls", ["was trained with cls_token+mean_tokens pooling"]),
        ({}, "cls", []),
        ([1], "cls", []),
    ],
)
def test_the_pooling_of_a_folder(pooling: Any, own: str, noted: list[str], tmp_path: Path) -> None:
    settings = TextTowerSettings(model=folder_of(tmp_path, pooling, []), pooling=own)
    notes = trained_otherwise(settings)
    assert len(notes) == len(noted)
    assert all(sentence in note for sentence, note in zip(noted, notes, strict=True))


def test_layers_after_the_pooling_are_noted(tmp_path: Path) -> None:
    modules = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Dense", "Normalize")]
    settings = TextTowerSettings(model=folder_of(tmp_path, CLS, modules), pooling="cls")
    assert trained_otherwise(settings) == [
        f"model.text.model: {tmp_path} was trained with a dense layer after the pooling (modules.json), which captions do not "
        "pass: their embeddings are those before it"
    ]


def test_encoders_without_such_files_have_no_notes(tmp_path: Path) -> None:
    for model in ("tiny-clip", str(tmp_path), "no/such-model"):
        assert trained_otherwise(TextTowerSettings(model=model)) == []
