"""What every section of the description is made of: bounded numbers, lists of distinct values, the resources of a worker."""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Item = TypeVar("Item")


def distinct(values: list[Item]) -> list[Item]:
    """What is listed twice would be made once and counted as two runs."""
    if twice := [value for position, value in enumerate(values) if value in values[:position]]:
        raise ValueError(f"{twice[0]!r} is listed twice: name each value once")
    return values


# No set of pictures is larger, and no product of two such numbers overflows a tensor's size.
LARGEST = 10**9


Positive = Annotated[int, Field(gt=0, le=LARGEST)]


NonNegative = Annotated[int, Field(ge=0, le=LARGEST)]


Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


# Of at least one value, each once.
Distinct = Annotated[list[Item], Field(min_length=1, max_length=10_000), AfterValidator(distinct)]


Rate = Annotated[float, Field(gt=0)]


ZeroStage = Literal[0, 1, 2, 3]


Precision = Literal["fp32", "bf16"]


PRECISION = "Of the backbone's forward and backward passes; parameters, heads, the loss and sums of gradients are fp32."


class Section(BaseModel):
    """A part of the description: immutable, unknown keys refused, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Resources(Section):
    """What one worker of a stage asks Ray for."""

    cpus: Annotated[float, Field(gt=0)] = Field(1, description="CPU cores.")
    gpus: Annotated[float, Field(ge=0)] = Field(0, description="GPUs; a fraction shares one.")
    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory of the GPU a worker gets, GiB: what `--plan` compares its estimate with; none: not compared."
    )
