"""The plan's memory of an unroll against the most that the allocator had in use."""

from typing import Any

from benchmarks._memory_cases import Case, estimate, unroll
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place
from vldd_dist.models.dual_encoder import build

TOLERANCE = 0.10
WHAT = ("exact", "finite_difference", "full")
SMALL = (Case("test_vit", {"img_size": 64}, "full", 64, 64),)
LARGE = (
    Case("vit_small_patch16_224", {}, "full", 32, 224),
    Case("vit_small_patch16_224", {}, "lora", 32, 224),
    Case("nfnet_l0", {}, "full", 16, 224),
)


def run(place: Place, notes: Notes) -> None:
    """Beside the student, both ends of its way, and the batches. On a CPU the profiler's record of the allocator tells."""
    for case in SMALL if place.tiny else LARGE:
        for what in WHAT[:1] if place.tiny else WHAT:
            model = build(case.settings, case.text_dim, None, 0).to(place.device)
            # What libraries take once, and keep.
            unroll(model, case, what, 2)()
            work = unroll(model, case, what, case.pairs)
            found, expected = place.peak_bytes(work), estimate(case, what)
            sizes: dict[str, Any] = {"planned_mib": expected / 2**20, "measured_mib": found / 2**20}
            notes.check(f"{case.name}, {what}", abs(expected / found - 1), TOLERANCE, ratio=expected / found, **sizes)
            del model, work
            place.free()
