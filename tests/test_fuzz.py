"""Random descriptions, manifests and statuses: the result is success or a VlddError in one line, and never anything else."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.distilled_sets import RECIPE
from tests.run_status import RUN, STATUS
from tests.unit_facts import EXAMPLES
from vldd_dist.artifacts.manifests import CheckpointRecord, Sealed, UnitManifest, from_json, to_json
from vldd_dist.artifacts.runs.run_status import RunStatus
from vldd_dist.artifacts.runs.run_units import RunUnits
from vldd_dist.artifacts.tensor_files.tensors import decode, parse_header
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.control_characters import one_line
from vldd_dist.distilled_set.manifest import DistilledManifest
from vldd_dist.distilled_set.reading import read_card, read_manifest
from vldd_dist.errors import StoreError, VlddError
from vldd_dist.monitoring.live.status import describe_status
from vldd_dist.store.objects import ObjectInfo
from vldd_dist.store.store import Store
from vldd_dist.testing.bad_input.cases.seals import seal

BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.integers(-(2**70), 2**70) | st.floats()
ODD = st.sampled_from([2**62, 10**400, "", "a\0b", "../x", "/x", "\ud800", "\x1b[2J", "2020-13-45", True, None, [], {}])
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec=None), max_size=20) | ODD
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=10
)

INFO = ObjectInfo.of("x", b"1").model_dump(mode="json")
WHOLE: dict[str, tuple[type[Sealed], dict[str, Any]]] = {
    "unit": (
        UnitManifest,
        {"kind": "dataset", "unit": "u", "spec": {}, "inputs": {}, "objects": {"x": INFO}, "facts": EXAMPLES["dataset"]},
    ),
    "checkpoint": (CheckpointRecord, {"step": 1, "objects": {"x": INFO}, "facts": {}}),
    "distilled set": (
        DistilledManifest,
        {
            "pairs": 5,
            "learned": {"inner_lr_image": 0.1, "inner_lr_text": 0.1},
            "recipe": RECIPE.model_dump(mode="json"),
            "facts": {"recalls": {"distilled": [EXAMPLES["evaluation"]["test"]]}},
            "objects": {"README.md": INFO | {"key": "README.md"}},
        },
    ),
    "status": (RunStatus, STATUS),
    "units of a run": (RunUnits, {"experiment": "scenes", "run": RUN, "units": [f"expert/{'0' * 16}"]}),
}


@st.composite
def changed(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one value replaced, a key added or one removed, at any depth."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(tree)))
        return tree | {key: draw(changed(tree[key]))}
    if isinstance(tree, list) and tree and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(tree) - 1))
        return [*tree[:at], draw(changed(tree[at])), *tree[at + 1 :]]
    if isinstance(tree, dict) and tree and draw(st.booleans()):
        without = draw(st.sampled_from(sorted(tree)))
        return {key: value for key, value in tree.items() if key != without}
    if isinstance(tree, dict) and draw(st.booleans()):
        return tree | {draw(st.text(st.characters(codec=None), max_size=5)): draw(TREES)}
    return draw(TREES)


def use(read: Any) -> None:
    """Use the objects that were read as the commands do."""
    if isinstance(read, RunStatus):
        said = describe_status(read)
        assert one_line(said.replace("\n", "")) == said.replace("\n", "")
    if isinstance(read, DistilledManifest):
        read.mean_recall()
    if isinstance(read, UnitManifest):
        read.check_facts("here")
    to_json(read)


def ends_well(work: Any) -> None:
    sentence = "none"
    with contextlib.suppress(VlddError):
        try:
            work()
        except VlddError as error:
            sentence = str(error)
            raise
    assert sentence == one_line(sentence) != ""


@pytest.mark.parametrize("kind", WHOLE)
@BOUNDED
@given(data=st.data())
def test_a_changed_manifest(kind: str, data: st.DataObject) -> None:
    model, whole = WHOLE[kind]
    own = model.own_version()
    tree = data.draw(changed(whole | {"schema_version": data.draw(st.sampled_from([own, own, own, 1, True, 2.0, 10**30]))}))
    ends_well(lambda: use(from_json(model, seal(tree), "here")))
    if isinstance(tree, dict):
        with pytest.raises(StoreError):
            from_json(model, json.dumps(tree).encode(), "here")


@pytest.mark.parametrize("kind", WHOLE)
def test_the_manifests_that_are_changed_are_right_before(kind: str) -> None:
    model, whole = WHOLE[kind]
    use(from_json(model, seal(whole | {"schema_version": model.own_version()}), "here"))


@BOUNDED
@given(st.binary() | st.text().map(str.encode))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"schema_version": 1, "x": ' + b"[" * 500 + b"]" * 500 + b"}")
@example(b'{"schema_version": 1, "x": NaN}')
@example(b'{"schema_version": 1, "x": 1e999}')
@example(b'{"schema_version": 1, "x": "\\ud800"}')
@example(b'{"schema_version": true}')
@example(b'{"schema_version": 1, "x": ' + b"9" * 5000 + b"}")
@example("{}".encode("utf-16"))
def test_bytes_for_a_manifest(data: bytes) -> None:
    for model, _ in WHOLE.values():
        ends_well(lambda model=model: from_json(model, data, "here"))  # type: ignore[misc]
    ends_well(lambda: parse_header(data, 100, "here"))
    ends_well(lambda: decode(data, "here"))
    ends_well(lambda: decode(len(data).to_bytes(8, "little") + data, "here"))


@BOUNDED
@given(data=st.data())
def test_a_changed_tensor_header(data: st.DataObject) -> None:
    tree = data.draw(changed({"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"a": "b"}}))
    text = json.dumps(tree).encode()
    ends_well(lambda: parse_header(text, 24, "here"))
    ends_well(lambda: decode(len(text).to_bytes(8, "little") + text + bytes(24), "here"))


@BOUNDED
@given(card=st.binary() | st.text().map(str.encode), names=st.lists(st.text(st.characters(codec=None), max_size=6), max_size=3))
def test_a_card_of_anything(card: bytes, names: list[str]) -> None:
    store = Store("memory://cards")
    model, whole = WHOLE["distilled set"]
    objects = {name: ObjectInfo.of(name, b"x").model_dump(mode="json") for name in names}
    objects["README.md"] = ObjectInfo.of("README.md", card).model_dump(mode="json")
    store.write("README.md", card)
    store.write("manifest.json", seal(whole | {"objects": objects, "schema_version": model.own_version()}))
    ends_well(lambda: read_manifest(store))
    ends_well(lambda: read_card(store))


SCENES = yaml.safe_load(Path("jobs/presets/scenes.yaml").read_text())
# The names and types of the presets' keys, so that values reach every check.
FULL = load_experiment("jobs/presets/scenes.yaml").model_dump(mode="json")
KEYS = [f"{section}.{key}" for section, values in FULL.items() if isinstance(values, dict) for key in values] + ["name", "seed"]


@BOUNDED
@given(data=st.data())
def test_a_changed_description(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "description.yaml"
    tree = data.draw(changed(data.draw(st.sampled_from([SCENES, FULL]))))
    try:
        path.write_text(yaml.safe_dump(tree, allow_unicode=data.draw(st.booleans())))
    except UnicodeEncodeError:
        path.write_text(json.dumps(tree))
    ends_well(lambda: load_experiment(path))


NAMED = [f"!!{tag} " for tag in ("int", "float", "bool", "null", "timestamp", "binary", "set", "omap")]
TAGS = st.sampled_from([*NAMED, "!x ", "&a *a "])
VALUES = (
    st.text(st.characters(codec=None), max_size=20)
    | TREES.map(lambda tree: json.dumps(tree))
    | st.builds(lambda tag, text: tag + text, TAGS, st.text(max_size=8))
    | st.dates().map(lambda day: day.isoformat().replace("-0", "-1"))
    | st.sampled_from(["9" * 5000, "[" * 2000, "{a: 1, a: 2}", ".inf", "-.nan", "1e999", "'\0'", '"\\ud800"', "? [1]"])
)


OVERRIDES = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS), VALUES) | st.text()


@BOUNDED
@given(overrides=st.lists(OVERRIDES, max_size=2))
def test_an_override_of_anything(overrides: list[str]) -> None:
    ends_well(lambda: load_experiment("jobs/presets/scenes.yaml", overrides))


@BOUNDED
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_bytes_for_a_description(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "description.yaml"
    path.write_bytes(data)
    ends_well(lambda: load_experiment(path))


def test_what_is_not_finite_is_not_written() -> None:
    model, whole = WHOLE["unit"]
    for number in (float("nan"), float("inf"), -float("inf")):
        manifest = model.model_validate(whole | {"spec": {"rates": [0.1, number]}})
        with pytest.raises(VlddError, match=r"spec\.rates\.1 is not a finite number and is not stored"):
            to_json(manifest)


def test_unknown_fields_are_refused() -> None:
    for model, whole in WHOLE.values():
        with pytest.raises(VlddError, match="more: Extra inputs are not permitted"):
            from_json(model, seal(whole | {"schema_version": model.own_version(), "more": 1}), "here")
