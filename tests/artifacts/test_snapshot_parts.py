"""Large snapshots in parts: whoever wrote them, any number of ranks reads them, each little more than its own elements."""

import json
from collections.abc import Callable
from itertools import pairwise
from math import prod

import pytest
import torch
from torch import Tensor

from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.tensor_files import snapshot_parts, tensors
from vldd_dist.artifacts.tensor_files.snapshot_parts import decode_snapshot, encode_snapshot
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory, write_snapshots
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.sharding.layout import Layout
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store import objects
from vldd_dist.store.store import Store

LayoutOf = Callable[[Ranks, list[torch.Size]], Layout]


def as_zero2(ranks: Ranks, shapes: list[torch.Size]) -> Layout:
    """All parameters one after the other, cut into equal lengths, as ZeRO 1 and 2 do."""
    ends = torch.tensor([0, *map(prod, shapes)]).cumsum(0).tolist()
    cuts = [ends[-1] * rank // ranks.world_size for rank in range(ranks.world_size + 1)]
    return Layout(
        ranks, shapes, [[(min(max(a, x), y) - x, min(max(b, x), y) - x) for x, y in pairwise(ends)] for a, b in pairwise(cuts)]
    )


def encoded(whole: dict[str, Tensor], layout: Layout) -> bytes:
    shards, owned = dict(zip(whole, layout.cut(list(whole.values())), strict=True)), dict(zip(whole, layout.own, strict=True))
    return encode_snapshot(shards, owned, {name: value.shape for name, value in whole.items()}, layout.ranks.world_size)


def written(store: Store, whole: dict[str, Tensor], writers: int, layout_of: LayoutOf) -> Trajectory:
    """The trajectory of an expert with one snapshot of an image tower, which `writers` ranks wrote."""
    unit = UnitWriter(store, "thing", "u", {}, {})
    for rank in range(writers):
        layout = layout_of(Ranks(rank, writers), [value.shape for value in whole.values()])
        unit.objects |= write_snapshots(unit, 0, {"image": encoded(whole, layout)}, rank, writers)
    unit.commit(Facts())
    return Trajectory(UnitReader(store, "thing", "u"), TensorCache())


# Without dimensions, with fewer rows than parts, with rows that the parts do not divide, without elements.
SHAPES = [(), (1, 5), (7, 3), (16, 4), (41,), (3, 2, 2), (0, 4)]


@pytest.mark.parametrize("large", [0, 1 << 20], ids=["parts", "small"])
@pytest.mark.parametrize("writers", [1, 2, 3, 8])
@pytest.mark.parametrize("layout_of", [Layout.by_rows, Layout.even, as_zero2])
def test_every_range_is_read_back(
    large: int, writers: int, layout_of: LayoutOf, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_parts, "LARGE_BYTES", large)
    whole = {f"image_{index}": torch.randn(shape) for index, shape in enumerate(SHAPES)}
    read = written(store, whole, writers, layout_of)
    assert {name: value.tolist() for name, value in read.snapshot(0, "image").items()} == {
        name: value.tolist() for name, value in whole.items()
    }
    for readers in (1, 2, 3, 4, 8):
        for rank in range(readers):
            layout = Layout.even(Ranks(rank, readers), [value.shape for value in whole.values()])
            ranges = dict(zip(whole, layout.own, strict=True))
            for name, values in read.slices(0, "image", ranges).items():
                assert torch.equal(values, whole[name].flatten()[slice(*ranges[name])])


@pytest.mark.parametrize("writers", [1, 2, 4])
@pytest.mark.parametrize("layout_of", [Layout.by_rows, Layout.even])
def test_a_rank_reads_its_share_of_a_large_snapshot(
    writers: int, layout_of: LayoutOf, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each parameter is as long as a block."""
    monkeypatch.setattr(snapshot_parts, "LARGE_BYTES", 0)
    monkeypatch.setattr(objects, "BLOCK_BYTES", 1 << 15)
    whole = {f"image_{index}": torch.randn(64, 128) for index in range(80)}
    read, blocks = written(store, whole, writers, layout_of), set[tuple[str, int, int]]()
    load_block = objects.load_block

    def counted(store: Store, info: objects.ObjectInfo, block: objects.Block) -> bytes:
        blocks.add((info.key, block.start, block.length))
        return load_block(store, info, block)

    monkeypatch.setattr(objects, "load_block", counted)
    for readers in (2, 4, 8):
        for rank in range(readers):
            blocks.clear()
            layout = layout_of(Ranks(rank, readers), [value.shape for value in whole.values()])
            read.slices(0, "image", dict(zip(whole, layout.own, strict=True)))
            # Its share, and the blocks of the headers and at its edges.
            share = sum(length for *_, length in blocks) / (80 << 15)
            assert 1 / readers <= share < 1 / readers + (3 + 2 * writers) / 80


def test_small_snapshots_are_whole_and_large_ones_equal_in_every_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"image_a": torch.randn(16, 4), "image_b": torch.randn(3)}
    layout = Layout.even(Ranks(0, 1), [value.shape for value in whole.values()])
    assert encoded(whole, layout) == tensors.encode(whole)
    monkeypatch.setattr(snapshot_parts, "LARGE_BYTES", sum(value.nbytes for value in whole.values()))
    large = encoded(whole, layout)
    assert large == encoded(whole, layout)
    # A tower is large or not on all ranks, whatever they hold of it.
    half = encoded(whole, Layout.even(Ranks(1, 2), layout.shapes))
    for data in (large, half):
        assert all(name.startswith("part-") for name in tensors.decode(data, "here"))


def test_what_was_written_before_there_were_parts_is_read() -> None:
    """One process wrote whole parameters, several flat ones with their shapes in the first metadata."""
    whole = {"image_a": torch.randn(6, 4)}
    assert torch.equal(decode_snapshot([tensors.encode(whole)], ["here"])["image_a"], whole["image_a"])
    shapes = {"shapes": json.dumps({"image_a": [6, 4]})}
    flat = [tensors.encode({"image_a": part}, shapes) for part in whole["image_a"].flatten().split(9)]
    assert torch.equal(decode_snapshot(flat, ["a", "b", "c"])["image_a"], whole["image_a"])
