"""Malicious content in a bucket, with valid checksums and seals, is rejected with a one-sentence error, and never executed."""

import os
import pickle
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.distilled_sets import distilled_set
from tests.store.new_bucket import new_bucket
from vldd_dist import build_text_encoder, build_towers, load_distilled
from vldd_dist.artifacts.manifests import UnitManifest, to_json
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.files.url_patterns import expand
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import read_manifest, verify
from vldd_dist.distilled_set.transfer.fetch import fetch
from vldd_dist.errors import ConfigError, DataError, StoreError
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store
from vldd_dist.testing.bad_input.cases.files import bomb, image, tar
from vldd_dist.testing.experiments.prepared_data import prepare
from vldd_dist.testing.servers.s3_server import S3Server


@pytest.fixture
def bucket(s3: S3Server) -> Store:
    return new_bucket()


class Payload:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def lying_header() -> bytes:
    header = b'{"images":{"dtype":"F32","shape":[5,3,65536,65536],"data_offsets":[0,257698037760]}}'
    return struct.pack("<Q", len(header)) + header + bytes(64)


def endless_header() -> bytes:
    return struct.pack("<Q", 2**62) + b"{}"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda ran: pickle.dumps(Payload(ran)), "a pickle"),
        (lambda ran: lying_header(), "not a valid safetensors file"),
        (lambda ran: endless_header(), "not a complete safetensors file"),
    ],
)
def test_a_set_whose_tensor_file_is_not_safetensors_is_refused(
    bucket: Store, tmp_path: Path, make: Callable[[Path], bytes], sentence: str
) -> None:
    url, ran = bucket.url_of("distilled/evil"), tmp_path / "ran"
    save(distilled_set(), url)
    folder = Store(url)
    pairs = make(ran)
    folder.write("pairs.safetensors", pairs)
    manifest = read_manifest(folder)
    objects = manifest.objects | {"pairs.safetensors": ObjectInfo.of("pairs.safetensors", pairs)}
    folder.write("manifest.json", to_json(manifest.model_copy(update={"objects": objects})))
    verify(url)
    with pytest.raises(StoreError, match=rf"pairs\.safetensors: .*{sentence}"):
        load_distilled(url)
    assert not ran.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"cache_dir": "{folder}", "pretrained_cfg_overlay": {"url": "{server}/evil.pth", "hf_hub_id": None}},
        {"pretrained_cfg_overlay": {"url": "{server}/evil.pth", "hf_hub_id": None}},
        {"cache_dir": "{folder}"},
        {"checkpoint_path": "{folder}/private.safetensors"},
        {"pretrained_cfg": {"file": "{folder}/private.safetensors"}},
    ],
)
def test_a_recipe_does_not_say_where_weights_come_from(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """timm would request the URL, write the answer into the folder, or read the file."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        places = {"{server}": f"http://127.0.0.1:{server.server_port}", "{folder}": str(tmp_path / "site-packages")}

        def placed(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: placed(one) for name, one in value.items()}
            for place, real in places.items():
                value = value.replace(place, real) if isinstance(value, str) else value
            return value

        weights = {"image_model": "test_vit", "image_weights": "timm"}
        recipe = distilled_set().recipe.model_copy(update={**weights, "image_model_args": placed(arguments)})
        hostile = replace(distilled_set(), recipe=recipe)
        url = str(tmp_path / "set")
        save(hostile, url)
        for look in (load_distilled, verify):
            with pytest.raises(StoreError, match=r"recipe\.image_model_args: .* says where weights come from: remove it"):
                look(url)
        with pytest.raises(ConfigError, match=r"model\.image\.model_args: .* says where weights come from: remove it"):
            build_towers(hostile)
        server.shutdown()
    assert requests == []
    assert not (tmp_path / "site-packages").exists()


def test_the_code_of_a_text_encoder_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would ask on the terminal whether to run it."""
    folder, ran = tmp_path / "evil", tmp_path / "ran"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "conf.C"}}')
    code = f"open({str(ran)!r}, 'w')\nfrom transformers import PretrainedConfig\nclass C(PretrainedConfig): pass\n"
    (folder / "conf.py").write_text(code)
    (folder / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr("builtins.input", lambda *asked: pytest.fail("the terminal was asked"))
    with pytest.raises(ConfigError, match=r"model\.text\.model: .* cannot be loaded \(.*custom code"):
        build_text_encoder(distilled_set(), model=folder)
    assert not ran.exists()


@pytest.mark.parametrize("model", [None, 5, "", ".", "..", "/etc", "~/models/bert", "a/../b", "a/b/c", "folder/", "C:\\bert"])
def test_a_recipe_names_no_path_of_a_text_encoder(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    monkeypatch.setattr("vldd_dist.models.recipe_text_encoder.FrozenTextEncoder", lambda *given: pytest.fail("it was loaded"))
    hostile = distilled_set()
    named = {} if model is None else {"model": model}
    hostile.recipe = hostile.recipe.model_copy(update={"text_encoder": {"pooling": "mean", **named}})
    with pytest.raises(DataError, match=r"text_encoder\.model: .* is not the name of a model: .* give its folder as `model`"):
        build_text_encoder(hostile)


def test_public_weights_that_are_not_safetensors_are_a_one_sentence_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpickle(*arguments: Any, **options: Any) -> None:
        raise pickle.UnpicklingError("Weights only load failed")

    monkeypatch.setattr("timm.create_model", unpickle)
    with pytest.raises(ConfigError, match="timm cannot load pretrained weights of test_vit"):
        create_backbone("test_vit", {}, pretrained=True, seed=0)


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x"])
def test_a_manifest_that_names_what_lies_elsewhere_is_refused(bucket: Store, tmp_path: Path, key: str) -> None:
    url = bucket.url_of("distilled/evil")
    save(distilled_set(), url)
    folder = Store(url)
    manifest = read_manifest(folder)
    info = manifest.objects["preview.png"]
    for objects in ({key: info.model_copy(update={"key": key})}, {"preview.png": info.model_copy(update={"key": key})}):
        folder.write("manifest.json", to_json(manifest.model_copy(update={"objects": manifest.objects | objects})))
        with pytest.raises(StoreError, match=r"rejected|is not a key"):
            fetch(url, tmp_path / "here" / "fetched")
        assert not (tmp_path / "here").exists()
    elsewhere = {"x": info.model_copy(update={"key": key})}
    unit = UnitManifest(kind="thing", unit="e", spec={}, inputs={}, objects=elsewhere, facts={})
    bucket.write("units/thing/e/manifest.json", to_json(unit))
    with pytest.raises(StoreError, match="rejected"):
        UnitReader(bucket, "thing", "e")


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("../../a.png", image()), ("../../a.txt", b"x")], "points outside the shard"),
        ([("/a.png", image()), ("/a.txt", b"x")], "points outside the shard"),
        ([("a.png", bomb()), ("a.txt", b"x")], "more than 178,956,970 pixels"),
        ([("a.pkl", b"PICKLE"), ("a.txt", b"x")], "a: no image"),
    ],
)
def test_a_shard_that_is_not_to_be_trusted_is_refused(
    bucket: Store, tmp_path: Path, members: list[tuple[str, bytes]], sentence: str
) -> None:
    ran = tmp_path / "ran"
    data = tar([(name, pickle.dumps(Payload(ran)) if data == b"PICKLE" else data) for name, data in members])
    for split in ("train", "val", "test"):
        bucket.write(f"{split}.tar", data)
    urls = {split: bucket.url_of(f"{split}.tar") for split in ("train", "val", "test")}
    settings = DataSettings(source={"name": "shards", **urls}, image_size=16)
    with pytest.raises(DataError, match=sentence):
        prepare(bucket, settings)
    assert not ran.exists()
    assert bucket.keys("units/dataset") == []


@pytest.mark.parametrize("url", ["pipe:touch {ran}", "pipe:touch {ran}::pipe:touch {ran}-more"])
def test_a_url_runs_no_command(bucket: Store, tmp_path: Path, url: str) -> None:
    ran = tmp_path / "ran"
    patterns = {split: url.format(ran=f"{ran}-{split}") for split in ("train", "val", "test")}
    settings = DataSettings(source={"name": "shards", **patterns}, image_size=16)
    with pytest.raises(DataError, match="cannot be read"):
        prepare(bucket, settings)
    assert list(tmp_path.glob("ran*")) == []


@pytest.mark.parametrize(
    "braces", ["{0..999999999999}", "{000..999}-{000..999}-{000..999}", "{0..-99999999}", f"{{0..{'9' * 5000}}}", "{a,b}" * 40]
)
def test_a_few_braces_do_not_stand_for_billions_of_shards(braces: str) -> None:
    with pytest.raises(DataError, match=r"the braces expand to more than 1,000,000 shards: correct the pattern"):
        expand(f"shards/{braces}.tar")
    assert len(expand("shards/{000..999}-{0..9}.tar")) == 10_000


def test_no_more_of_a_manifest_is_read_than_the_limit(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(300 << 20)
    assert len(Store(tmp_path).read("manifest.json", 1000)) == 1001
    with pytest.raises(StoreError, match="more than 64 MiB: this is no manifest of a distilled set"):
        verify(tmp_path)
    hub = Store("hf://datasets/user/set")
    hub.backend.fs = fsspec.filesystem("memory")
    hub.fs.pipe_file("/datasets/user/set/manifest.json", bytes(5000))
    assert len(hub.read("manifest.json", 1000)) == 1001
    assert len(hub.read("manifest.json")) == 5000


def test_a_manifest_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    for name, make in (("a", os.mkfifo), ("b", lambda path: os.symlink("/dev/zero", path))):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "manifest.json")
        with pytest.raises(StoreError, match="not a regular file"):
            verify(tmp_path / name)
