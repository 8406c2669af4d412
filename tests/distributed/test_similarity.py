"""A distillation that learns a similarity: on two ranks the same as on one, and resumed the same as uninterrupted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.distributed.feature_runs import with_inputs
from tests.distributed.stopping import execute_until
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.pipeline.context import read_rows
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of
from vldd_dist.testing.processes.group import Group
from vldd_dist.testing.unroll_cases import relative

# Seven pairs, so that the ranks' rows differ in number; a minibatch of five, whose columns of a full similarity are gathered.
# SGD, because Adam's first step is only the sign of the gradient; at small rates, because rounding grows with them.
OVERRIDES = [
    "data.train_images=24",
    "experts.count=1",
    "experts.loss=infonce",
    "distill.pairs=[7]",
    "distill.batch_size=5",
    "distill.optimiser=sgd",
    "distill.lr_images=0.5",
    "distill.lr_texts=0.5",
    "distill.outer_steps=4",
    "distill.checkpoint_every=2",
    "distill.validate_every=2",
]
SIMILARITIES = {"low_rank": "{kind: low_rank, rank: 3, lr: 0.5}", "full": "{kind: full, lr: 0.5}"}
LEARNED = {"low_rank": ["similarity_diagonal", "similarity_left", "similarity_right"], "full": ["similarity"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The inputs of a distillation, which do not depend on what the loss learns."""
    return with_inputs(Store(str(tmp_path_factory.mktemp("prepared"))), OVERRIDES)


def described(kind: str) -> list[str]:
    return [*OVERRIDES, f"model.loss={{name: wbce, similarity: {SIMILARITIES[kind]}}}"]


def distil(ranks: Ranks, url: str, kind: str, stop_at: int | None = None) -> dict[str, Tensor]:
    """Run the distillation; returns this rank's rows in the last checkpoint."""
    overrides = [*described(kind), f"distill.workers={ranks.world_size}"]
    (unit,) = units_of(experiment(*overrides), "distillation")
    written = execute_until(ranks, url, unit, stop_at)
    (rows,) = [data for name, data in written.items() if name.startswith("rows")]
    return tensors.decode(rows, "rows")


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_ranks_learn_what_one_process_learns(
    kind: str, prepared: Store, copy: Callable[[str], Store], group: Callable[[int], Group]
) -> None:
    alone, broken, together = copy("alone"), copy("broken"), copy("together")
    wanted = distil(SOLO, alone.url, kind)
    distil(SOLO, broken.url, kind, 2)
    resumed = distil(SOLO, broken.url, kind)
    assert all(torch.equal(resumed[name], rows) for name, rows in wanted.items())
    parts = group(2).run(distil, together.url, kind)
    assert [len(part["pairs/images"]) for part in parts] == [4, 3]
    (unit,) = units_of(experiment(*described(kind)), "distillation")
    readers = [UnitReader(store, "distillation", unit.id) for store in (alone, together)]
    start = read_rows(readers[0], "start")
    for name in ("images", "texts", *LEARNED[kind]):
        found = torch.cat([part[f"pairs/{name}"] for part in parts])
        way = wanted[f"pairs/{name}"] - start[name]
        assert float(way.norm()) > 1e-3, name
        assert relative(found - start[name], way) < 1e-4, name
    if kind == "full":
        assert torch.cat([part["pairs/number"] for part in parts]).tolist() == list(range(7))
    # Validation trains students on these pairs on several ranks too.
    recalls = [[recall for _, recall in reader.manifest.facts["validation"]] for reader in readers]
    assert recalls[1] == pytest.approx(recalls[0], abs=2)
