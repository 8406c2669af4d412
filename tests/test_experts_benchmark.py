"""`benchmarks.experts`: the inputs of its pipeline without a model."""

from pathlib import Path

from benchmarks.experts import __main__ as benchmark
from benchmarks.experts.photographs import write_shards
from vldd_dist.data.prepared.batches.stream import EpochStream, StreamSettings


def test_the_pipeline_without_a_model_streams_what_was_prepared_for_the_experts(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_shards(tmp_path, split, images=8, per_shard=4)
    benchmark.prepare(tmp_path, "nf_regnet_b1")
    dataset, embeddings = benchmark.streamed_inputs(str(tmp_path), "nf_regnet_b1", 0)
    batches = list(EpochStream(embeddings, dataset, "train", StreamSettings(batch_size=3), seed=0, epoch=1))
    assert [batch.images.shape for batch in batches] == [(3, 3, 128, 128), (3, 3, 128, 128), (2, 3, 128, 128)]
    assert {batch.texts.shape[1] for batch in batches} == {embeddings.dim}
