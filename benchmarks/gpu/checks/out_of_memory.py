"""An outer step without enough memory: the run ends with one sentence, and later resumes from its checkpoint."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.gpu.distilling import distilling, new_model, short_run
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.objectives.outer_problem import OuterGradient
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.errors import DeviceMemoryError
from vldd_dist.pipeline.out_of_memory import naming_what_to_lower
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.store.store import Store

SIZE, TEXT_DIM, PAIRS, STEPS, FAILS = 64, 16, 64, 4, 3
# Memory that the process may still allocate when memory is limited; an outer step needs several times as much.
ROOM = 16 * 2**20
# More bytes than any machine has.
TOO_MUCH = 2**50


def run(place: Place, notes: Notes) -> None:
    """Memory is limited in the last outer step, after a checkpoint at step 2."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            # Half a GPU, because other processes may use this one.
            with naming_what_to_lower(stage_of("distillation"), "distillation", gpus=0.5):
                _run(place, Path(folder), limited=True)
        except DeviceMemoryError as error:
            sentence = str(error)
            notes.remark(f"the error: {sentence}")
            for word in ("distill.batch_size", "distill.objective.inner_steps", "its last checkpoint"):
                if word not in sentence:
                    notes.wrong(f"the sentence does not name {word}")
            notes.row(what="one sentence", holds="\n" not in sentence)
        else:
            notes.wrong("an outer step without enough memory did not fail")
        place.free()
        steps = _run(place, Path(folder), limited=False)
        notes.row(what="resumes from its checkpoint", holds=steps == [2, 3], outer_steps=str(steps))
        if steps != [2, 3]:
            notes.wrong(f"the resumed run made the outer steps {steps}, not 2 and 3")


def _run(place: Place, folder: Path, *, limited: bool) -> list[int]:
    """The outer steps that the run made.

    Args:
        limited: whether memory is limited in step `FAILS`.
    """
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    image = ImageTowerSettings(model="test_vit", model_args={"img_size": SIZE}, weights="random")
    model = new_model(ModelSettings(image=image, text=text), TEXT_DIM, place.device)
    settings = short_run(SIZE, TEXT_DIM, STEPS)
    steps: list[int] = []
    with distilling(model, settings, PAIRS, Store(str(folder))) as run:
        gradient = run.problem.gradient

        def watched(step: int, pairs: SyntheticPairs) -> OuterGradient:
            steps.append(step)
            if not (limited and step == FAILS):
                return gradient(step, pairs)
            with _little_memory(place):
                return gradient(step, pairs)

        run.problem.gradient = watched  # type: ignore[method-assign]
        run.run()
    return steps


@contextmanager
def _little_memory(place: Place) -> Iterator[None]:
    """In the `with` block, the process can allocate only `ROOM` more bytes; on a CPU, an allocation that must fail is made."""
    if not place.on_gpu:
        torch.empty(TOO_MUCH, device=place.device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(place.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(place.device) + ROOM) / total, place.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, place.device)
