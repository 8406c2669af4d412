"""The four gradients of the unroll side by side: time, peak memory and error, as ratios to the full graph.

    python -m benchmarks.unroll [--quick]

64 px, batch 8, 2/4/8/16 inner steps. Memory is the peak above that of the process with the model loaded, each run in a
process of its own. Time is the median of interleaved repeats, again each method in a process of its own, so that noise of
a shared machine meets all alike. Errors are relative l2 distances of all pair gradients to those of `full`.
"""

import statistics
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._measure import in_fresh_process, parse, peak_mib, print_result, set_threads

MODELS = ("test_vit", "nf_regnet_b1", "nfnet_l0")
STEPS = (2, 4, 8, 16)
METHODS = ("full", "tesla", "exact", "central", "forward")
BATCH, SIZE, TEXT_DIM = 8, 64, 384


def measure(model: str, method: str, steps: int, repeats: int) -> dict[str, Any]:
    """In a fresh process: median seconds, peak MiB above the loaded model, the gradients, MiB of trainable parameters."""
    import torch

    from vldd_dist.distillation.matching import matching_loss
    from vldd_dist.distillation.student import Student
    from vldd_dist.distillation.unroll import unrolled_gradient
    from vldd_dist.models.dual_encoder import build
    from vldd_dist.settings import ImageTowerSettings, ModelSettings, TextTowerSettings

    set_threads()
    arguments = {"img_size": SIZE} if "vit" in model else {}
    image = ImageTowerSettings(model=model, model_args=arguments, weights="random")
    built = build(ModelSettings(image=image, text=TextTowerSettings(model="minilm")), TEXT_DIM, None, 0)
    difference = method if method in ("central", "forward") else "central"
    gradient = "finite_difference" if method in ("central", "forward") else method
    student = Student(built, 0.07, dropout=False, fused_attention=gradient == "finite_difference")
    generator = torch.Generator().manual_seed(0)
    theta = student.view.read()
    # An expert's epoch ahead: a relative change of one part in a hundred.
    target = [t + 0.01 * t.norm() / t.numel() ** 0.5 * torch.randn(t.shape, generator=generator) for t in theta]
    batches = [
        [torch.randn(BATCH, 3, SIZE, SIZE, generator=generator), torch.randn(BATCH, TEXT_DIM, generator=generator)]
        for _ in range(steps)
    ]
    rates = torch.tensor([0.01, 0.01])

    def outer(end: Any) -> torch.Tensor:
        return matching_loss(end, theta, target, student.towers)

    # Libraries allocate on first use; one step of the first-order kind is the baseline.
    unrolled_gradient("finite_difference", student, theta, rates, batches[:1], outer, "forward")
    baseline, seconds = peak_mib(), []
    for _ in range(repeats):
        began = time.perf_counter()
        result = unrolled_gradient(gradient, student, theta, rates, batches, outer, difference)
        seconds.append(time.perf_counter() - began)
    flat = torch.cat([tensor.flatten() for batch in result.batches for tensor in batch])
    return {
        "seconds": seconds,
        "mib": peak_mib() - baseline,
        "gradient": flat.numpy(),
        "parameters_mib": student.view.count * 4 / 2**20,
    }


def run_model(model: str, steps: int, rounds: int, repeats: int) -> dict[str, dict[str, Any]]:
    """All methods, interleaved over `rounds`; results of a method merged."""
    merged: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for method in METHODS:
            found = in_fresh_process(measure, model, method, steps, repeats)
            if method in merged:
                merged[method]["seconds"] += found["seconds"]
                merged[method]["mib"] = min(merged[method]["mib"], found["mib"])
            else:
                merged[method] = found
    return merged


def relative_error(found: Any, wanted: Any) -> float:
    import numpy as np

    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def main() -> None:
    quick = parse(__doc__ or "").quick
    table = Table(title=f"Unroll at {SIZE} px, batch {BATCH}: ratios to full")
    for column in ("model", "steps", "method", "time", "memory", "error", "seconds", "MiB"):
        table.add_column(column, justify="left" if column in ("model", "method") else "right")
    worst: dict[str, float] = {}

    def note(key: str, value: float) -> None:
        worst[key] = max(worst.get(key, 0.0), value)

    for model in MODELS:
        exact_mib: dict[int, float] = {}
        parameters_mib = 0.0
        for steps in (2, 8) if quick else STEPS:
            results = run_model(model, steps, rounds=1 if quick else 3, repeats=1 if quick else 2)
            full = results["full"]
            full_seconds = statistics.median(full["seconds"])
            for method, found in results.items():
                seconds = statistics.median(found["seconds"])
                time_ratio, memory_ratio = seconds / full_seconds, found["mib"] / full["mib"]
                error = relative_error(found["gradient"], full["gradient"])
                cells = (f"{time_ratio:.2f}", f"{memory_ratio:.2f}", f"{error:.1e}", f"{seconds:.2f}", f"{found['mib']:.0f}")
                table.add_row(model, str(steps), method, *cells)
                if steps == 8 and method == "exact":
                    note("time_ratio_exact_T8", time_ratio)
                    note("memory_ratio_exact_T8", memory_ratio)
                    note("error_exact", error)
                if steps == 8 and method in ("central", "forward"):
                    note(f"time_ratio_fd_{method}_T8", time_ratio)
                    note(f"error_fd_{method}", error)
            exact_mib[steps], parameters_mib = results["exact"]["mib"], full["parameters_mib"]
        first, last = min(exact_mib), max(exact_mib)
        growth = (exact_mib[last] - exact_mib[first]) / (last - first)
        table.add_row(model, f"{first}-{last}", "exact", "", "", "", "", f"+{growth:.1f} a step (theta {parameters_mib:.1f})")
        note("snapshot_growth_ratio", growth / parameters_mib)
    Console(width=120).print(table)
    print_result(worst)


if __name__ == "__main__":
    main()
