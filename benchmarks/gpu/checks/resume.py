"""A distillation that is stopped and resumes from its checkpoint with a new model, compared with an uninterrupted one."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.distilling import distilling, new_model, short_run
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.errors import InterruptedRun
from vldd_dist.store.store import Store

SIZE, TEXT_DIM, PAIRS, STEPS, STOP = 32, 16, 6, 6, 3
STUDENTS = {
    "NFNet": {"model": "test_nfnet"},
    "ViT, LoRA": {"model": "test_vit", "model_args": {"img_size": SIZE}, "train": "lora"},
    "frozen NFNet": {"model": "test_nfnet", "train": "head", "head": HeadSettings(kind="linear")},
}


def run(place: Place, notes: Notes) -> None:
    """The results must be equal with deterministic algorithms; with torch's default ones, differences are only reported."""
    # Deterministic algorithms need cuBLAS workspaces of a fixed size. The variable is read when cuBLAS is first used.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    for student in list(STUDENTS)[: 1 if place.tiny else None]:
        for deterministic in (True,) if place.tiny else (True, False):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                # Warnings instead of errors, so that all operations without a deterministic implementation are named.
                torch.use_deterministic_algorithms(deterministic, warn_only=True)
                uninterrupted, resumed = _both(student, place)
            digests = [_digest(tensors) for tensors in (uninterrupted, resumed)]
            differences = [_difference(uninterrupted[name], resumed[name]) for name in uninterrupted]
            how = "deterministic" if deterministic else "default"
            notes.row(
                what=f"{student}: {how} algorithms",
                same=digests[0] == digests[1],
                largest_difference=max(differences),
                digest=digests[0][:12],
                resumed=digests[1][:12],
            )
            messages = [str(warning.message) for warning in caught if "deterministic" in str(warning.message)]
            lacking = sorted({message.partition(" does not have")[0] for message in messages})
            if deterministic and lacking:
                notes.remark(f"{student}: without a deterministic implementation: {'; '.join(lacking)[:300]}")
            if digests[0] != digests[1]:
                differing = [name for name, value in zip(uninterrupted, differences, strict=True) if value]
                sentence = f"{student}: a resumed run differs in {', '.join(differing)}, {how} algorithms"
                (notes.wrong if deterministic else notes.remark)(sentence)
    torch.use_deterministic_algorithms(False)


def _both(student: str, place: Place) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The results of an uninterrupted run, and of one that was stopped and resumed."""
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = _run(student, place, Path(folder, "uninterrupted"))
        steps = iter(range(STEPS + 1))
        assert _run(student, place, Path(folder, "stopped"), lambda: next(steps) == STOP) == {}
        return uninterrupted, _run(student, place, Path(folder, "stopped"))


def _run(student: str, place: Place, folder: Path, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Tensor]:
    """The final state of the run; empty if it is stopped."""
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    image = ImageTowerSettings(weights="random", **STUDENTS[student])  # type: ignore[arg-type]
    joint = None if image.head.kind == "none" else 16
    model = new_model(ModelSettings(image=image, text=text, joint_dim=joint), TEXT_DIM, place.device)
    settings = short_run(SIZE, TEXT_DIM, STEPS, batch_size=4)
    with distilling(model, settings, PAIRS, Store(str(folder)), should_stop=should_stop) as run:
        try:
            run.run()
        except InterruptedRun:
            return {}
        return _state(run)


def _state(run: Distillation) -> dict[str, Tensor]:
    return {**run.pairs.rows, **run.pairs.shared, **run.history.as_tensors()}


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())
