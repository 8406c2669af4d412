"""The parts in order of importance: first the checks, then the figures. Only the standard library is imported."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        entry: `module:function`, called as function(place, notes, **arguments).
        seconds: its time limit; it is lower if less of the whole budget remains.
        quick, tiny: whether it also runs with --quick and with --tiny.
    """

    name: str
    kind: Literal["check", "figures"]
    title: str
    entry: str
    seconds: int
    arguments: dict[str, Any] = field(default_factory=dict)
    quick: bool = True
    tiny: bool = True


STUDENTS = {
    "nfnet_l0": "nfnet_l0",
    "vit_b": "ViT-B/16",
    "vit_b_lora": "ViT-B/16, LoRA",
    "vit_l": "ViT-L/16, checkpointing",
}


def _outer_steps(batch: int, steps: int, seconds: int, *, quick: bool) -> list[Part]:
    return [
        Part(
            f"step_{student}_b{batch}_t{steps}",
            "figures",
            f"An outer step of {title}, {batch} pairs, {steps} inner steps",
            "benchmarks.gpu.figures.outer_steps:run",
            seconds,
            {"student": student, "batch": batch, "steps": steps},
            quick and student in ("nfnet_l0", "vit_b_lora"),
            quick and student == "vit_b_lora",
        )
        for student, title in STUDENTS.items()
    ]


PARTS = [
    Part("device", "figures", "Peak rates of the device", "benchmarks.gpu.figures.device:run", 30),
    Part("gradients", "check", "Gradients on the device compared with fp64", "benchmarks.gpu.checks.gradients:run", 90),
    Part("memory", "check", "Planned memory compared with the allocator's", "benchmarks.gpu.checks.memory:run", 60),
    Part("out_of_memory", "check", "An outer step without enough memory", "benchmarks.gpu.checks.out_of_memory:run", 40),
    Part("resume", "check", "A stopped distillation resumes to the same bits", "benchmarks.gpu.checks.resume:run", 50),
    Part("ranks", "check", "Two ranks", "benchmarks.gpu.checks.ranks:run", 60),
    *_outer_steps(20, 8, 45, quick=True),
    Part("experts", "figures", "Training an expert", "benchmarks.gpu.figures.experts:run", 45),
    Part("evaluation", "figures", "Evaluating a set", "benchmarks.gpu.figures.evaluation:run", 45),
    *_outer_steps(100, 8, 45, quick=False),
    *_outer_steps(20, 16, 40, quick=False),
    *_outer_steps(100, 16, 60, quick=False),
]
