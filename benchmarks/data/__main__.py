"""The costs of a data set before distillation: scaling with workers, memory by size, and frozen backbones.

    python -m benchmarks.data [--quick] [--photographs FOLDER [--whole]]

- Preparing groups of artificial images and embedding their captions with one and with two workers: ratios of median wall times.
- The memory (largest resident set) of a worker that prepares, embeds, or trains an expert for one epoch, on data sets of 1,000,
  10,000 and 123,000 images with five captions each (`--quick`: 200 and 20,000); the growth is that of the largest worker.
- `vldd run --plan` for 100 million pairs in 10,000 tars.
- The outer step on a frozen backbone (`benchmarks.frozen_step`).
- A whole experiment on a frozen backbone, with earlier code and with today's: the Flickr8k preset if its files
  are given with `--photographs` (shortened, unless `--whole`), else scenes.

The last line is JSON: prepare_scaling_2_workers, embed_scaling_2_workers, memory_growth_100x, frozen_outer_step_speedup,
experiment_speedup_frozen, and the figures from which they are computed.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import frozen_step
from benchmarks._measure import print_json
from benchmarks.data.before import overrides_of, seconds_before_and_now
from benchmarks.data.plan import plan_of_100_million_pairs
from benchmarks.data.units import made_up, run_units, small_encoder, units_of, workers

MIB = 2**20
# Name of the figures -> the kinds of units that a worker runs, one after the other.
STEPS = {
    "prepare": ("shard_group", "dataset"),
    "embed": ("embedding_group", "caption_embeddings"),
    "expert": ("expert",),
}


def scaling(encoder: Path, images: int, repeats: int) -> dict[str, float]:
    """Ratio of the wall time of one worker to that of two, for preparing and for embedding."""
    experiment = made_up(images, encoder)
    groups = {name: units_of(experiment, name) for name in ("shard_group", "embedding_group")}
    durations: dict[tuple[str, int], list[float]] = {}
    for _ in range(repeats):
        for count in (1, 2):
            with tempfile.TemporaryDirectory() as store, workers(count) as pool:
                for name, units in groups.items():
                    seconds, _ = run_units(pool, units, store)
                    durations.setdefault((name, count), []).append(seconds)
    ratio = {name: statistics.median(durations[name, 1]) / statistics.median(durations[name, 2]) for name in groups}
    return {"prepare_scaling_2_workers": ratio["shard_group"], "embed_scaling_2_workers": ratio["embedding_group"]}


def memory(encoder: Path, sizes: tuple[int, ...], table: Table) -> dict[str, float]:
    """Memory and duration of each step at each size, and the ratio of the largest worker's memory at the last size to that at
    the first."""
    largest: dict[int, int] = {}
    figures: dict[str, float] = {}
    for size in sizes:
        experiment = made_up(size, encoder)
        with tempfile.TemporaryDirectory() as store:
            for name, kinds in STEPS.items():
                # A new process for each step, so that its memory is due to this step alone.
                with workers(1) as pool:
                    seconds, peak = run_units(pool, units_of(experiment, *kinds), store)
                largest[size] = max(largest.get(size, 0), peak)
                figures |= {f"{name}_mib_{size}": peak / MIB, f"{name}_seconds_{size}": seconds}
                table.add_row(f"{size:,}", name, f"{seconds:,.1f}", f"{peak / MIB:,.0f}")
    return {"memory_growth_100x": largest[sizes[-1]] / largest[sizes[0]], **figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data", description="The costs of a data set: workers, memory, frozen backbones."
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    parser.add_argument("--photographs", type=Path, help="folder with flickr8k/ and weights/")
    parser.add_argument("--whole", action="store_true", help="with --photographs: the preset without shortening")
    options = parser.parse_args()
    if options.whole and options.photographs is None:
        parser.error("--whole needs --photographs")
    table = Table("images", "step", "s", "MiB of the worker", title="One worker")
    with tempfile.TemporaryDirectory() as folder:
        encoder = small_encoder(Path(folder, "encoder"))
        figures = scaling(encoder, 8_000 if options.quick else 24_000, 3)
        figures |= memory(encoder, (200, 20_000) if options.quick else (1_000, 10_000, 123_000), table)
    Console(width=100).print(table)
    figures |= plan_of_100_million_pairs()
    figures |= frozen_step.measure(3 if options.quick else 9)
    before, now = seconds_before_and_now(overrides_of(options.photographs, options.whole))
    figures |= {"experiment_speedup_frozen": before / now, "experiment_seconds_before": before, "experiment_seconds_now": now}
    print_json({name: round(value, 4) for name, value in figures.items()})


if __name__ == "__main__":
    main()
