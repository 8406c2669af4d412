"""The building blocks of the configuration: sections, bounded numbers, lists of distinct values, plug-ins and their settings."""

import json
import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from vldd_dist.errors import did_you_mean
from vldd_dist.plugins import Registry

Item = TypeVar("Item")
SectionType = TypeVar("SectionType", bound="Section")


def distinct(values: list[Item]) -> list[Item]:
    """The values themselves; raises ValueError if one is repeated, because it would be computed once and counted as two runs.
    Plug-ins are compared without the settings that do not change their output."""
    compared = [_identity(value) for value in values]
    if repeated := [value for position, value in enumerate(values) if compared[position] in compared[:position]]:
        raise ValueError(f"{getattr(repeated[0], 'label', repeated[0])!r} is listed twice: name each value once")
    return values


# Larger than any set of images, and small enough that the product of two such numbers is a valid size of a tensor.
LARGEST = 10**9
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _several(pairs: int) -> int:
    """The number of pairs; raises ValueError for one pair, of which the softmax of a contrastive loss is 1 whatever the student:
    nothing would be learned, without an error."""
    if pairs == 1:
        raise ValueError("a contrastive loss compares pairs, and learns nothing from one: set 2 or more")
    return pairs


# A number of pairs, at least two: a contrastive loss compares pairs.
PairCount = Annotated[Positive, AfterValidator(_several)]
# A list of at least one value, without repetitions.
Distinct = Annotated[list[Item], Field(min_length=1, max_length=10_000), AfterValidator(distinct)]
Rate = PositiveFloat
# auto: a GPU for workers that ask for one.
Device = Literal["auto", "cpu"]
Sharding = Literal["none", "zero1", "zero2", "zero3", "fsdp"]
Precision = Literal["fp32", "bf16"]
PRECISION = (
    "Precision of the backbone's forward and backward passes; parameters, heads, the loss and sums of gradients are fp32."
)

# Markers for fields that do not change a unit's output: `Annotated[Positive, HOW_TO_RUN] = ...`. A field without a marker
# determines the output.
HOW_TO_RUN = Field(json_schema_extra={"role": "how to run"})
LOCATION = Field(json_schema_extra={"role": "location"})


# The `type` of the pydantic error for an unknown key. Its context has the `section` that lacks the key.
UNKNOWN_KEY = "unknown_key"
# The `type` of the error for a URL with credentials, which no message may show.
CREDENTIALS = "credentials"
# Not those of Azure, whose CONTAINER@ACCOUNT is no secret, and of the hub, whose NAME@REVISION comes later.
_WITH_CREDENTIALS = re.compile(r"(https?|s3a?|gs|gcs)://[^/?#\s]*@|[a-z][a-z0-9+.-]*://[^/?#\s:@]*:[^/?#\s]*@", re.IGNORECASE)
CREDENTIALS_REFUSED = "the URL carries credentials: give them by environment, ~/.netrc, a profile or a role"


def carries_credentials(value: Any) -> bool:
    """Whether a text, or one of a list, has a URL with credentials."""
    if isinstance(value, str):
        return _WITH_CREDENTIALS.search(value) is not None
    return isinstance(value, (list, tuple)) and any(map(carries_credentials, value))


class Section(BaseModel):
    """A part of the description. It is immutable and refuses unknown keys, numbers that are not finite, booleans as numbers, and
    URLs with credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _suggest_keys(cls, values: Any) -> Any:
        """Refuse unknown keys with a suggestion. Here, because which plug-in's section applies is known only during validation."""
        if not isinstance(values, dict):
            return values
        # Keys that are not text are refused by pydantic.
        unknown = [key for key in values if isinstance(key, str) and key not in cls.model_fields]
        if unknown:
            lines = [InitErrorDetails(type=_unknown_key(key, cls), loc=(key,), input=values[key]) for key in unknown]
            raise ValidationError.from_exception_data(cls.__name__, lines)
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is expected: pydantic would read them as 1 and 0."""
        if _has_boolean(value) and _takes_numbers(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("expected a number, not true or false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_credentials(cls, value: Any) -> Any:
        """Refuse URLs with credentials: the description is stored beside its report, and messages show its URLs."""
        if carries_credentials(value):
            raise PydanticCustomError(CREDENTIALS, CREDENTIALS_REFUSED)
        return value

    def narrowed_to(self, base: type[SectionType], **changes: Any) -> SectionType:
        """The settings that a base class of this section has.

        Args:
            changes: values of fields in place of this section's.
        """
        return base(**{name: getattr(self, name) for name in base.model_fields} | changes)

    def identity(self) -> dict[str, Any]:
        """The fields that determine an output, as JSON values; nested sections are reduced in the same way. Those of
        `without_effect` have their defaults."""
        unused, fields = self.without_effect(), type(self).model_fields
        return {
            name: _identity(fields[name].get_default(call_default_factory=True) if name in unused else getattr(self, name))
            for name in self._fields_with_role(None)
        }

    def without_effect(self) -> frozenset[str]:
        """Names of fields that have no effect on an output with these values of the other fields, such as a setting of an
        optimiser that is not used. Another value of them changes no id."""
        return frozenset()

    def execution(self) -> dict[str, Any]:
        """The fields that only say how a unit runs, as JSON values."""
        return self.model_dump(mode="json", include=set(self.execution_names()))

    @classmethod
    def execution_names(cls) -> list[str]:
        """Names of the fields that only say how a unit runs, except the resources that its workers request from Ray."""
        return [name for name in cls._fields_with_role("how to run") if cls.model_fields[name].annotation is not Resources]

    def changed_settings(self) -> list[str]:
        """KEY=VALUE for each setting that differs from its default, except those that only say how a unit runs. The key of a
        setting in a nested section has the keys of both."""
        changes = []
        for key, field in type(self).model_fields.items():
            value, default = getattr(self, key), _default(field)
            if key in ("name", *self.execution_names()) or _identity(value) == _identity(default):
                continue
            if isinstance(value, Section) and not isinstance(value, Plugin) and (nested := value.changed_settings()):
                changes += [f"{key}.{change}" for change in nested]
            else:
                changes.append(f"{key}={_shown(value)}")
        return changes

    @classmethod
    def _fields_with_role(cls, role: str | None) -> list[str]:
        return [name for name, field in cls.model_fields.items() if _role(field.json_schema_extra) == role]


def check_gpus(gpus: float) -> float:
    """GPUs of one worker; raises ValueError if they are more than one, because a worker would not use the others."""
    if gpus > 1:
        raise ValueError("a worker computes on one GPU: set 1; distill.workers or experts.workers use several for one unit")
    return gpus


class Resources(Section):
    """The resources that one worker of a stage requests from Ray."""

    cpus: Annotated[float, Field(gt=0)] = Field(1, description="CPU cores.")
    gpus: Annotated[NonNegativeFloat, AfterValidator(check_gpus)] = Field(
        0, description="0 to 1 GPU; a fraction lets several workers share one."
    )
    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory of a worker's GPU in GiB; `--plan` compares its estimate with it. null: no comparison."
    )


def _unknown_key(key: str, section: type[Section]) -> PydanticCustomError:
    hint = did_you_mean(key, section.model_fields)
    return PydanticCustomError(UNKNOWN_KEY, "unknown key{hint}", {"hint": hint, "section": section})


def _has_boolean(value: Any) -> bool:
    return any(map(_has_boolean, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


def _takes_numbers(annotation: Any) -> bool:
    """Whether a field of this type holds numbers or lists of numbers, and cannot hold booleans."""
    kinds = types_in(annotation)
    return not kinds.isdisjoint({int, float}) and kinds.isdisjoint({bool, Any})


def types_in(annotation: Any) -> set[Any]:
    """The types in an annotation, without its containers and constraints."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(value) for value in arguments}
    if origin is Annotated:
        return types_in(arguments[0])
    return set().union(*map(types_in, arguments)) if arguments else {annotation}


def _role(extra: Any) -> str | None:
    return extra.get("role") if isinstance(extra, dict) else None


def _identity(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if isinstance(value, dict):
        return {key: _identity(item) for key, item in value.items()}
    # In no order of its own, which differs from process to process.
    return sorted(value) if isinstance(value, set | frozenset) else value


def _default(field: FieldInfo) -> Any:
    """The default as it is in a model; PydanticUndefined if there is none."""
    default = field.get_default(call_default_factory=True)
    if not field.validate_default:
        return default
    annotation: Any = Annotated[field.annotation, *field.metadata]
    return TypeAdapter(annotation).validate_python(default)


def _shown(value: Any) -> str:
    """A setting's value in a label. Labels are in the ids of publications, so they are the same in every process."""
    if isinstance(value, Plugin):
        return value.label
    if isinstance(value, list) and any(isinstance(item, Plugin) for item in value):
        return f"[{', '.join(map(_shown, value))}]"
    return str(_identity(value))


class Plugin(Section):
    """A plug-in is its own configuration section: the fields of the class are its settings.

    Attributes:
        name: the plug-in's name in its registry.
        needs: further inputs that it may need.
        known_needs: those that a plug-in of its kind can name.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    known_needs: ClassVar[frozenset[str]] = frozenset()
    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        """Raises ValueError if `needs` of the new class names an input that no plug-in of its kind gets."""
        super().__pydantic_init_subclass__(**keywords)
        if unknown := sorted(cls.needs - cls.known_needs):
            known = ", ".join(sorted(cls.known_needs)) or "none"
            raise ValueError(f"{cls.__name__}.needs: there is no {unknown[0]!r}: choose of {known}")

    def __hash__(self) -> int:
        """By the settings that determine the output. pydantic's own fails if one of them is a list."""
        return hash((type(self), json.dumps(self.identity(), sort_keys=True)))

    @property
    def label(self) -> str:
        """The name, followed by the settings that differ from their defaults, except those that only say how a unit runs."""
        return " ".join((self.name, *self.changed_settings()))

    def needed(self) -> frozenset[str]:
        """Those of `needs` that it needs with these settings, and those of the plug-ins that it combines."""
        return self.needs


def choose(registry: Registry, chosen: Any, default: str | None = None) -> Any:
    """The plug-in that a description names: `NAME`, or `{name: NAME, SETTING: VALUE}` to change its settings.

    Args:
        default: the plug-in's name if the mapping has no `name`.

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


# The type of a field made by `plugin_of`. This module may not import the classes of plug-ins, so code that reads such a field
# annotates it with the class it expects.
AnyPlugin = Any
