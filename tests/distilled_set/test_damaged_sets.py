"""Damaged sets and statuses on the command line: a one-sentence error with exit code 4, and the other sets are shown."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.command import vldd
from tests.distilled_sets import RECIPE, distilled_set, save_unchecked
from tests.run_status import STATUS
from vldd_dist import build_text_encoder, build_towers, load_distilled
from vldd_dist.artifacts.keys import status_key
from vldd_dist.artifacts.manifests import to_json
from vldd_dist.artifacts.runs.run_status import known_figures
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.row_files import concatenated
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import CARD_BYTES, read_manifest, verify
from vldd_dist.errors import ConfigError, DataError, StoreError
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store
from vldd_dist.testing.bad_input.cases.seals import seal


@pytest.fixture
def url(store: Store) -> str:
    folder = store.url_of("distilled/a-set")
    save(distilled_set(), folder)
    return folder


def put(url: str, name: str, data: bytes | None) -> None:
    """Replace an object of a set, and its entry in the manifest; None removes it."""
    store = Store(url)
    manifest = read_manifest(store)
    objects = {key: info for key, info in manifest.objects.items() if key != name}
    if data is not None:
        store.write(name, data)
        objects[name] = ObjectInfo.of(name, data)
    store.write("manifest.json", to_json(manifest.model_copy(update={"objects": objects})))


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        (None, "manifest.json: lists no README.md: the set has no card to show"),
        (b"\xff\xfe", "README.md: not UTF-8: the set has no card to show"),
        (b"x" * (CARD_BYTES + 1), "README.md: 1048577 bytes are too many for a card"),
    ],
)
def test_a_set_without_a_card(url: str, card: bytes | None, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(url, "README.md", card)
    code, _, err = vldd("show", url, capsys=capsys)
    assert (code, err.count("\n")) == (4, 1)
    assert sentence in err


@pytest.mark.parametrize("card", ["# A title", "---\nno end of a header", "", "a --- b\n---\n---\n", "---\n---\n# A title"])
def test_a_card_without_a_header_is_shown_as_it_is(url: str, card: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(url, "README.md", card.encode())
    code, out, _ = vldd("show", url, capsys=capsys)
    assert code == 0
    assert ("A title" in card) == ("A title" in out)
    assert "preview.png" in out


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[:100], "not JSON"),
        (lambda data: data.replace(b'"pairs": 5', b'"pairs": 6'), "its seal does not match its content"),
        (lambda data: data.replace(b'"schema_version": 4', b'"schema_version": true'), "schema version True; this vldd_dist"),
        (lambda data: b'{"schema_version": 1, "pairs": NaN}', "not finite (NaN)"),
        (lambda data: b'{"schema_version": 1, "pairs": 1e999}', "not finite (1e999)"),
        (lambda data: b'{"schema_version": 1, "pairs": "\\ud800"}', "half a surrogate pair"),
        (lambda data: b'{"schema_version": 1, "pairs": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "nested deeper than 64"),
        (lambda data: b'{"schema_version": 1, "pairs": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (lambda data: seal({"schema_version": 4, "pairs": 5}), "learned: Field required"),
    ],
)
def test_a_damaged_set_is_named_and_the_others_are_listed(
    url: str, store: Store, damage: Any, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("another", "last"):
        save(distilled_set(), store.url_of(f"distilled/{name}"))
    store.write("distilled/another/manifest.json", damage(store.read("distilled/another/manifest.json")))
    code, out, err = vldd("list", store.url, capsys=capsys)
    assert code == 4
    assert [line.split()[0] for line in out.splitlines()] == [url, store.url_of("distilled/last")]
    assert sentence in err
    assert err.count("\n") == 1
    another = store.url_of("distilled/another")
    for command in (["show", another], ["verify", another], ["fetch", another, store.root + "-fetched"]):
        code, _, err = vldd(*command, capsys=capsys)
        assert (code, err.count("\n"), sentence in err) == (4, 1, True)


def test_invalid_recalls_in_a_manifest_are_refused(url: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    tree = json.loads(Store(url).read("manifest.json"))
    del tree["seal"]
    for recalls in ([], {"distilled": 3}, {"distilled": [{"mean": "high"}]}):
        changed = tree | {"facts": {"recalls": recalls}}
        Store(url).write("manifest.json", seal(changed))
        code, _, err = vldd("list", store.url, capsys=capsys)
        assert (code, "facts" in err) == (4, True)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        *(("card", {"card": card}) for card in (None, -1, 1e308, "x", [])),
        *(("data", {"data": data}) for data in (None, "x", {"licence": None}, {"licence": -1}, {"licence": []})),
        *(("start", {"start": start}) for start in (None, "x", {"fixed": None}, {"fixed": [1]})),
        ("recalls", {"recalls": {"distilled": []}}),
    ],
)
def test_facts_of_which_no_card_can_be_made_are_refused(url: str, name: str, facts: dict[str, Any]) -> None:
    tree = json.loads(Store(url).read("manifest.json"))
    del tree["seal"]
    Store(url).write("manifest.json", seal(tree | {"facts": facts}))
    for look in (load_distilled, verify):
        with pytest.raises(StoreError, match=rf"manifest\.json: facts.*{name}"):
            look(url)


def test_a_tower_that_returns_maps_of_features_is_refused() -> None:
    shown = distilled_set()
    shown.recipe = shown.recipe.model_copy(update={"image_model_args": {"features_only": True}})
    with pytest.raises(ConfigError, match=r"does not return one vector for an image: remove features_only"):
        build_towers(shown)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"epochs": -5}, {"batch_size": 0}, {"batch_size": -3}, {"learning_rate": -1.0}, {"learning_rate": 0.0},
        {"momentum": -1.0}, {"weight_decay": -1.0}, {"std": (0.0, 1.0, 1.0)}, {"image_dropout": 2.0}, {"text_dropout": -0.5},
        {"joint_dim": 0}, {"image_size": 0},
    ],
)  # fmt: skip
def test_recipes_by_which_nothing_can_be_trained_are_refused(store: Store, change: dict[str, Any]) -> None:
    url = store.url_of("distilled/a-set")
    save(replace(distilled_set(), recipe=RECIPE.model_copy(update=change)), url)
    (name,) = change
    for look in (load_distilled, verify):
        with pytest.raises(StoreError, match=rf"manifest\.json: recipe\.{name}.*: Input should be (greater|less) than"):
            look(url)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["images", "texts"])
def test_pairs_with_values_that_are_no_numbers_are_refused(store: Store, name: str, value: float) -> None:
    damaged = distilled_set()
    damaged.rows[name][-1].view(-1)[0] = value
    save_unchecked(damaged, store.url_of("a-set"))
    with pytest.raises(StoreError, match=rf"pairs\.safetensors: '{name}' has values that are infinite or no numbers"):
        load_distilled(store.url_of("a-set"))


def test_shared_tensors_with_values_that_are_no_numbers_are_refused(store: Store) -> None:
    damaged = distilled_set()
    damaged.shared["image"] = torch.tensor(float("inf"))
    save_unchecked(damaged, store.url_of("a-set"))
    with pytest.raises(StoreError, match=r"shared\.safetensors: 'image' has values that are infinite or no numbers"):
        load_distilled(store.url_of("a-set"))


def test_settings_of_a_loss_that_do_not_match_the_tensors_take_no_memory(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = json.loads(Store(url).read("manifest.json"))
    del tree["seal"]
    tree["recipe"]["loss"] = {"name": "wbce", "similarity": {"kind": "low_rank", "rank": 10**9}}
    Store(url).write("manifest.json", seal(tree))
    monkeypatch.setattr("vldd_dist.models.losses.similarity._draw_row", lambda rank, number: pytest.fail("a row was drawn"))
    with pytest.raises(StoreError, match=r"'similarity_diagonal' must be \(5,\) float32"):
        load_distilled(url)


def test_adapters_that_no_model_has_are_refused(store: Store) -> None:
    recipe = RECIPE.model_copy(update={"image_train": "lora", "lora": {"rank": 0}})
    save(replace(distilled_set(), recipe=recipe), store.url_of("a-set"))
    with pytest.raises(DataError, match=r"the set's recipe: rank: Input should be greater than 0: no model has this"):
        build_towers(load_distilled(store.url_of("a-set")))


@pytest.mark.parametrize(("name", "value"), [("pooling", "bogus"), ("max_tokens", 0), ("revision", 5)])
def test_text_encoders_that_do_not_exist_are_refused(name: str, value: Any) -> None:
    damaged = distilled_set()
    damaged.recipe = RECIPE.model_copy(update={"text_encoder": {"model": "tiny-clip", name: value}})
    with pytest.raises(DataError, match=rf"the set's recipe: text_encoder\.{name}: .*: no encoder has this"):
        build_text_encoder(damaged)


@pytest.mark.parametrize(
    "other",
    [
        {"images": torch.zeros(2, 3, 8, 8)},
        {"images": torch.zeros(2, 3, 4, 4, dtype=torch.float16)},
        {"images": torch.zeros(())},
        {"texts": torch.zeros(2, 3, 4, 4)},
        {},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(url: str, other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(StoreError, match="here: row file 2 has other names, shapes or types than row file 1"):
        concatenated([{"images": torch.zeros(2, 3, 4, 4)}, other], "here")
    with pytest.raises(StoreError, match="here: row file 1 has other"):
        concatenated([{"images": torch.zeros(())}, {"images": torch.zeros(())}], "here")
    put(url, "pairs.safetensors", None)
    first = {"images": torch.zeros(3, 3, 4, 4), "texts": torch.zeros(3, 2)}
    put(url, "pairs-00001-of-00002.safetensors", tensors.encode(first))
    put(url, "pairs-00002-of-00002.safetensors", tensors.encode(other))
    with pytest.raises(StoreError, match="row file 2 has other names"):
        load_distilled(url)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"written_at": "yesterday"}, "written_at: Value error, Invalid isoformat string"),
        ({"written_at": "2026-01-01T00:00:00"}, "written_at: Value error, a time without a time zone"),
        ({"written_at": "9999-99-99T00:00:00+00:00"}, "written_at: Value error, month must be in 1..12"),
        ({"running": [{"label": "x", "seconds": 1, "event": {"done": "a few", "total": 3}}]}, "running.0.event"),
        ({"running": [{"label": "x", "seconds": 1, "event": {"loss": [1]}}]}, "running.0.event"),
        ({"stages": {"expert": {"total": -1, "done": 0, "failed": 0}}}, "stages.expert.total"),
    ],
)
def test_a_damaged_status_is_named_and_the_others_are_shown(
    store: Store, change: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, tree in (("bad", STATUS | change), ("good", STATUS | {"experiment": "good"})):
        tree = {"kind": "run_status", "schema_version": 2, "written_at": "2026-01-01T00:00:00+00:00"} | tree
        store.write(status_key(name, "0a1b2c3d"), seal(tree))
    code, out, err = vldd("status", store.url, capsys=capsys)
    assert (code, err.count("\n")) == (4, 1)
    assert "good: running" in out
    assert f"status/bad/0a1b2c3d.json: {sentence}" in err


def test_a_stage_of_another_version_is_shown_by_its_own_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {kind: {"total": 2, "done": 1, "failed": 0} for kind in ("quantum", "expert")}
    event = {"total": 7, "phase": {"of": "the moon"}}
    running = [{"label": "x", "seconds": 1.0, "event": event}]
    tree = STATUS | {"stages": stages, "running": running, "schema_version": 2, "kind": "run_status"}
    tree["written_at"] = "2026-01-01T00:00:00+00:00"
    store.write(status_key("x", "0a1b2c3d"), seal(tree))
    code, out, _ = vldd("status", store.url, capsys=capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "1/2 done" in line] == ["experts", "quantum"]
    assert "x: 0/7 (1 s)" in out


def test_a_report_that_is_not_as_it_should_be_does_not_stop_a_run() -> None:
    report = {"done": 3, "total": 5, "loss": float("nan"), "epoch": "one", "new": {1: 2}, "validation": None}
    assert known_figures(report) == {"done": 3, "total": 5}


@pytest.mark.parametrize("hours", ["inf", "-inf", "nan", "-1", "1e300", "1e9", "x"])
def test_invalid_ages_for_gc_are_refused(store: Store, hours: str, capsys: pytest.CaptureFixture[str]) -> None:
    store.write("units/thing/u/a/x", b"kept")
    code, _, err = vldd("gc", store.url, "--delete", "--min-age-hours", hours, capsys=capsys)
    assert code == 2
    assert "--min-age-hours" in err
    assert store.keys("units") == ["units/thing/u/a/x"]


def test_local_paths_are_not_read_as_glob_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "a[bc]*?")
    save(distilled_set(), f"{url}/distilled/x")
    (tmp_path / "ab").mkdir()
    code, listed, _ = vldd("list", url, capsys=capsys)
    assert code == 0
    assert listed.startswith(f"file://{url}/distilled/x  5 pairs  not evaluated  published 20")
    assert vldd("verify", f"{url}/distilled/x", capsys=capsys)[0] == 0
    assert vldd("fetch", f"{url}/distilled/x", str(tmp_path / "[b]*"), capsys=capsys)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a[bc]*?", "ab", "[b]*"}
