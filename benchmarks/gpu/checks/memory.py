"""The planned memory of an unroll compared with the allocator's peak."""

from typing import Any

from benchmarks.footprint.cases import Case, estimate, unroll
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
    """The peak in addition to the student, its start and target parameters, and the batches. On a CPU it is taken from the
    profiler's record of the allocator."""
    for case in SMALL if place.tiny else LARGE:
        for what in WHAT[:1] if place.tiny else WHAT:
            model = build(case.settings, case.text_dim, None, 0).to(place.device)
            # A first unroll, after which libraries have allocated what they keep.
            unroll(model, case, what, 2)()
            work = unroll(model, case, what, case.pairs)
            measured, planned = place.peak_bytes(work), estimate(case, what)
            sizes: dict[str, Any] = {"planned_mib": planned / 2**20, "measured_mib": measured / 2**20}
            notes.check(f"{case.name}, {what}", abs(planned / measured - 1), TOLERANCE, ratio=planned / measured, **sizes)
            del model, work
            place.free()
