"""Running units of an artificial data set in separate processes, and measuring their wall time and memory."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from benchmarks._measure import resident
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.models.libraries import transformers
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.store.store import Store

# Scenes of 16 pixels, as many as a real data set has. Random weights avoid the pretraining of a tower.
MADE_UP = (
    "data.image_size=16",
    "data.shard_images=500",
    "data.group_images=2000",
    "data.val_images=200",
    "data.test_images=200",
    "model.image.weights=random",
    "model.text.pooling=mean",
    "experts.count=1",
    "experts.epochs=1",
    "experts.batch_size=128",
    "experts.augment=null",
    "experts.cache_mib=0",
    "experts.readers=1",
    "distill.pairs=[4]",
    "distill.objective.max_start_epoch=0",
    "coresets.methods=[random]",
)


def made_up(images: int, encoder: Path) -> Experiment:
    """An experiment with this many training images, whose captions are embedded by the encoder in this folder."""
    return load_experiment("scenes", [*MADE_UP, f"data.train_images={images}", f"model.text.model={encoder}"])


def small_encoder(folder: Path) -> Path:
    """A small BERT with random weights and the words of the scenes: the cost of the data set is measured, not the encoder's."""
    import torch

    from vldd_dist.data.scenes import draw_scenes

    words = sorted({word for scene in draw_scenes(400, 0, 16, 0) for text in scene.captions for word in text.lower().split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers().BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    transformers().BertModel(transformers().BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return folder


def units_of(experiment: Experiment, *kinds: str) -> list[WorkUnit]:
    """The experiment's units of these kinds, inputs first."""
    return [unit for unit in Graph(experiment).units() if unit.kind in kinds]


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with one thread each that have imported everything a unit needs."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    context = get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, initializer=_enter, initargs=(barrier,)) as pool:
        list(pool.map(_load, range(count)))
        yield pool


def run_units(pool: ProcessPoolExecutor, units: list[WorkUnit], store: str) -> tuple[float, int]:
    """Wall seconds until all units are done, and the largest resident set of a worker in bytes."""
    started = time.monotonic()
    peaks = list(pool.map(_run, [unit.order() for unit in units], [store] * len(units)))
    return time.monotonic() - started, max(peaks)


def _enter(barrier: object) -> None:
    globals()["_barrier"] = barrier


def _load(number: int) -> None:
    from vldd_dist.pipeline.stage import all_stages

    transformers()
    all_stages()
    # Without the barrier, one process could run all of these calls.
    globals()["_barrier"].wait()


def _run(order: UnitOrder, store: str) -> int:
    execute(order, Store(store), lambda event: None)
    return resident("VmHWM")
