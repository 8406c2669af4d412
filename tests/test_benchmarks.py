"""Benchmarks measure what their pages say, and refuse options without an effect."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from torch import Tensor
from torch.nn import functional

from benchmarks import applications, unroll
from benchmarks.data import __main__ as data
from benchmarks.data.before import overrides_of
from benchmarks.data.plan import peak_mib
from benchmarks.experts import __main__ as experts


def test_the_peak_of_a_command_is_neither_that_of_its_parent_nor_of_earlier_processes() -> None:
    """This process holds torch."""
    assert 100 < peak_mib([sys.executable, "-c", "bytearray(100 * 2**20)"]) < 150
    assert peak_mib([sys.executable, "-c", ""]) < 50
    with pytest.raises(RuntimeError, match="ended with 3:\nwhy"):
        peak_mib([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])


def test_an_expert_is_measured_with_images_that_an_earlier_epoch_has_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Process:
        def run(self, function: Callable[..., float], *arguments: object) -> float:
            calls.append(function.__name__)
            return float(len(calls))

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(experts, "FreshProcess", Process)
    assert experts.compare_single(tmp_path, "nfnet_l0", rounds=1, batches=4) == (2.0, 3.0)
    assert calls == ["train", "_published_rate", "train"]


@pytest.mark.parametrize(
    ("method", "is_fused"), [("full", False), ("exact", False), ("fd_central", True), ("fd_forward", True)]
)
def test_finite_differences_are_measured_with_fused_attention_as_in_a_run(
    method: str, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def passed(query: Tensor, *arguments: object, **named: object) -> Tensor:
        seen.append(True)
        return query

    case = unroll.Case("test_vit", 1)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", passed)
    case.gradient(method)
    assert bool(seen) == is_fused


def test_both_versions_run_the_same_experiment() -> None:
    """Their default coresets differ, and today's preset limits the splits."""
    for options in ((None, False), (Path("x"), False), (Path("x"), True)):
        assert "coresets.methods=[random, herding, k_center, forgetting]" in overrides_of(*options)
    assert "data.train_images=null" in overrides_of(Path("x"), True)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (applications, ["--photographs", "/none", "--only", "typo"], "argument --only: invalid choice: 'typo' (choose from"),
        (data, ["--whole"], "--whole needs --photographs"),
    ],
    ids=["applications", "data"],
)
def test_options_without_an_effect_are_refused_before_anything_runs(
    module: object, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    with pytest.raises(SystemExit) as ended:
        module.main()  # type: ignore[attr-defined]
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
