"""What every section of the description is made of: bounded numbers, lists of distinct values, plug-ins and their settings."""

import difflib
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from vldd_dist.plugins import Registry

Item = TypeVar("Item")


def distinct(values: list[Item]) -> list[Item]:
    """What is listed twice would be made once and counted as two runs."""
    if twice := [value for position, value in enumerate(values) if value in values[:position]]:
        raise ValueError(f"{getattr(twice[0], 'label', twice[0])!r} is listed twice: name each value once")
    return values


# No set of images is larger, and no product of two such numbers overflows a tensor's size.
LARGEST = 10**9
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# Of at least one value, each once.
Distinct = Annotated[list[Item], Field(min_length=1, max_length=10_000), AfterValidator(distinct)]
Rate = Annotated[float, Field(gt=0)]
Sharding = Literal["none", "zero1", "zero2", "zero3", "fsdp"]
Precision = Literal["fp32", "bf16"]
PRECISION = "Of the backbone's forward and backward passes; parameters, heads, the loss and sums of gradients are fp32."

# What a field does to a unit's output, on the field itself: `Annotated[Positive, HOW_TO_RUN] = ...`. A field without a role
# determines the output.
HOW_TO_RUN = Field(json_schema_extra={"role": "how to run"})
WHERE_IT_LIES = Field(json_schema_extra={"role": "where it lies"})


# The type of a pydantic error.
UNKNOWN_KEY = "unknown_key"


class Section(BaseModel):
    """A part of the description: immutable, unknown keys refused, every number finite and no boolean."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _suggest_keys(cls, given: Any) -> Any:
        """Plug-ins' sections are chosen while a description is validated, so only the section itself knows its keys."""
        # Keys that are no text are refused by pydantic.
        unknown = (
            [key for key in given if isinstance(key, str) and key not in cls.model_fields] if isinstance(given, dict) else []
        )
        if unknown:
            lines = [InitErrorDetails(type=_unknown_key(key, cls), loc=(key,), input=given[key]) for key in unknown]
            raise ValidationError.from_exception_data(cls.__name__, lines)
        return given

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would read true as 1."""
        if _has_boolean(value) and _takes_numbers(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("expected a number, not true or false")
        return value

    def identity(self) -> dict[str, Any]:
        """The fields that determine an output, as JSON values; of sections in them the same."""
        return {name: _identity(getattr(self, name)) for name in self._named(None)}

    def execution(self) -> dict[str, Any]:
        """The fields that only say how a unit runs, as JSON values."""
        return self.model_dump(mode="json", include=set(self.execution_names()))

    @classmethod
    def execution_names(cls) -> list[str]:
        """Names of the fields that only say how a unit runs, without what its workers ask Ray for."""
        return [name for name in cls._named("how to run") if cls.model_fields[name].annotation is not Resources]

    @classmethod
    def _named(cls, role: str | None) -> list[str]:
        return [name for name, field in cls.model_fields.items() if _role(field.json_schema_extra) == role]


class Resources(Section):
    """What one worker of a stage asks Ray for."""

    cpus: Annotated[float, Field(gt=0)] = Field(1, description="CPU cores.")
    gpus: Annotated[float, Field(ge=0)] = Field(0, description="GPUs; a fraction shares one.")
    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory of the GPU a worker gets, GiB: what `--plan` compares its estimate with; none: not compared."
    )


def _unknown_key(key: str, section: type[Section]) -> PydanticCustomError:
    near = difflib.get_close_matches(key, section.model_fields, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return PydanticCustomError(UNKNOWN_KEY, "unknown key{hint}", {"hint": hint})


def _has_boolean(value: Any) -> bool:
    return any(map(_has_boolean, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


def _takes_numbers(annotation: Any) -> bool:
    """Whether a field of this type holds numbers, or lists of them, and no booleans."""
    kinds = _kinds(annotation)
    return not kinds.isdisjoint({int, float}) and kinds.isdisjoint({bool, Any})


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of, without containers and constraints."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(value) for value in arguments}
    if origin is Annotated:
        return _kinds(arguments[0])
    return set().union(*map(_kinds, arguments)) if arguments else {annotation}


def _role(extra: Any) -> str | None:
    return extra.get("role") if isinstance(extra, dict) else None


def _identity(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return value


class Plugin(Section):
    """A plug-in is its own configuration section: the fields of the class are its settings.

    Attributes:
        name: as the registry has it.
    """

    name: str

    @property
    def label(self) -> str:
        """The name, and the settings that differ from their defaults."""
        fields = type(self).model_fields
        set_ = {
            key: getattr(self, key) for key, field in fields.items() if key != "name" and getattr(self, key) != field.default
        }
        return " ".join([self.name, *(f"{key}={getattr(value, 'label', value)}" for key, value in set_.items())])


PluginType = TypeVar("PluginType", bound=Plugin)


def choose(registry: Registry, chosen: Any, default: str | None = None) -> Any:
    """The plug-in that a description names: `NAME`, or `{name: NAME, SETTING: VALUE}` where it has settings.

    Args:
        default: the name where the mapping has none.

    Raises:
        ValueError: there is no such plug-in, or its settings are wrong.
    """
    if isinstance(chosen, Plugin):
        return chosen
    settings = {"name": chosen} if isinstance(chosen, str) else chosen
    if default is not None and isinstance(settings, dict):
        settings = {"name": default, **settings}
    if not (isinstance(settings, dict) and isinstance(settings.get("name"), str)):
        raise ValueError(f"expected the name of a {registry.kind}, or a mapping with `name` and its settings")
    return registry.load(settings["name"]).model_validate(settings)


def plugin_of(registry: Registry, default: str | None = None) -> Any:
    """Makes a field hold a plug-in: `Annotated[AnyPlugin, plugin_of(SOURCES)]`."""
    return BeforeValidator(lambda chosen: choose(registry, chosen, default))


# The type of such a field for a type checker: the classes of plug-ins are above this module. Its users say which they expect.
AnyPlugin = Any
