"""A study: variants of one description, whose results are compared in tables."""

import copy
import itertools
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from vldd_dist.config.base import Distinct, Positive, Section
from vldd_dist.config.overrides import Key, names_first, set_key
from vldd_dist.recall_metrics import RECALL_METRICS

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
# Each variant is an experiment whose graph is made when the study is read.
MOST_VARIANTS = 1_000
LONGEST_LABEL = 60

# Keys of the description with their values: `distill.pairs: [10]`.
Changes = dict[Key, Any]


def _label(text: str) -> str:
    if not NAME.fullmatch(text) or len(text) > LONGEST_LABEL:
        raise ValueError(f"{text[:80]!r} is not a name: write up to {LONGEST_LABEL} lower-case letters, digits and dashes")
    return text


Label = Annotated[str, AfterValidator(_label)]


def _known_metric(name: str) -> str:
    if name not in RECALL_METRICS:
        raise ValueError(f"{name!r} is not a metric: choose from {', '.join(RECALL_METRICS)}")
    return name


def _published(given: Any) -> Any:
    """The names of published tables: a list, or a mapping VARIANT: [NAMES]. Checked here, so that an error names the right key."""
    names: Any = dict[Label, Distinct[str]] if isinstance(given, dict) else Distinct[str]
    return TypeAdapter(names).validate_python(given)


class TableSettings(Section):
    """One table of a study: a row, or a column under each metric, for each set of students that it compares."""

    title: str = Field(min_length=1, max_length=300, description="Title printed above the table.")
    variants: Distinct[str] | None = Field(None, description="Names of the variants in the table, in this order; null: all.")
    methods: Distinct[str] = Field(
        ["distilled"],
        description='Methods in the table, in this order: labels of coresets, "distilled" and "full" (the experts).',
    )
    pairs: Distinct[Positive] | None = Field(None, description="Numbers of pairs in the table; null: all.")
    budgets: dict[Positive, Positive] = Field(
        default_factory=dict,
        description="PAIRS: PAIRS. Rows with the first number of pairs are compared with those that have the second, because a learned "
        "similarity takes the bytes of the others: {99: 100}. Such a set must not have more bytes than those plain pairs.",
    )
    image_models: Literal["own", "all"] = Field(
        "own",
        description="own: only students with the variant's image tower; all: a row for each of evaluation.image_models too.",
    )
    across: Literal["method", "variant"] | None = Field(
        None, description="What is compared in columns, under each metric; null: methods and variants are rows."
    )
    metrics: Distinct[Annotated[str, AfterValidator(_known_metric)]] = Field(
        list(RECALL_METRICS), description="Columns: recalls on the test split, and their mean."
    )
    published: Annotated[list[str] | dict[str, list[str]], BeforeValidator(_published)] | None = Field(
        None,
        description="Names of published tables (see `vldd published`) to compare with, whose variants have the names of the "
        "study's; {VARIANT: [NAMES]} also compares a variant with tables of one variant of another name; null: no comparison.",
    )


class Study(Section):
    """Variants of a description: every combination of the axes' values, and the variants that are listed one by one.

    Attributes:
        base: the description that the variants change, after the changes of `set` and of `--set`. It is not yet checked,
            because a variant may set a key that it lacks.
    """

    name: str = Field(pattern=NAME.pattern, max_length=60, description="Short name: lower-case letters, digits, dashes.")
    base: dict[str, Any] = Field(
        description="The description to vary: the keys of an experiment, a preset's name, or the path of a file."
    )
    set: Changes = Field(default_factory=dict, description="KEY: VALUE. Changes of the base that all variants share.")
    vary: dict[str, dict[Label, Changes]] = Field(
        default_factory=dict,
        description="AXIS: {LABEL: {KEY: VALUE}}, or KEY: [VALUES]. Each combination of the axes' labels is a variant.",
    )
    variants: dict[Label, Changes] = Field(
        default_factory=dict, description="NAME: {KEY: VALUE}. Each entry is a further variant; {} is the base itself."
    )
    tables: dict[Label, TableSettings] = Field(
        default_factory=dict, description="NAME: the settings of a table. Without any: one table of all variants."
    )

    @model_validator(mode="before")
    @classmethod
    def _axes_of_values(cls, tree: Any) -> Any:
        """Expand `KEY: [VALUES]` to an axis with one label for each value."""
        axes = tree.get("vary") if isinstance(tree, dict) else None
        if not isinstance(axes, dict):
            return tree
        return tree | {"vary": {axis: _labelled(axis, values) for axis, values in axes.items()}}

    @model_validator(mode="after")
    def _axes_set_different_keys(self) -> Self:
        """Refuse two axes that set the same key: the labels of one would be of values that no variant has. A plug-in's name and
        its settings may be in two axes (see `names_first`)."""
        set_by: dict[Key, str] = {}
        replaced: set[Key] = set()
        for axis, labels in self.vary.items():
            for key, value in itertools.chain.from_iterable(changes.items() for changes in labels.values()):
                if set_by.setdefault(key, axis) != axis:
                    raise ValueError(f"vary.{set_by[key]} and vary.{axis} both set {key}: set it in one of them")
                if not isinstance(value, str):
                    replaced.add(key)
        for key, axis in set_by.items():
            for section in itertools.accumulate(key.split(".")[:-1], "{}.{}".format):
                if section in replaced and set_by[section] != axis:
                    raise ValueError(
                        f"vary.{set_by[section]} sets all of {section}, and vary.{axis} sets {key}: set keys of {section} one by "
                        "one in both"
                    )
        return self

    @model_validator(mode="after")
    def _tables_name_variants(self) -> Self:
        names = list(itertools.islice(self._names(), MOST_VARIANTS + 1))
        if not names:
            raise ValueError("a study needs `vary` or `variants`: set one of them to what differs between its rows")
        if len(names) > MOST_VARIANTS:
            raise ValueError(f"vary has more than {MOST_VARIANTS:,} combinations: shorten an axis")
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two variants are named {sorted(repeated)[0]}: rename a label of vary or a key of variants")
        for table, settings in self.tables.items():
            if unknown := [name for name in settings.variants or [] if name not in names]:
                raise ValueError(f"tables.{table}.variants: {unknown[0]} is not a variant: choose from {', '.join(names)}")
            compared = settings.published if isinstance(settings.published, dict) else {}
            if unknown := [name for name in compared if name not in (settings.variants or names)]:
                choices = ", ".join(settings.variants or names)
                raise ValueError(f"tables.{table}.published: {unknown[0]} is not a variant of the table: choose from {choices}")
        return self

    def _names(self) -> Iterator[str]:
        yield from (name for name, _ in self._crossed())
        yield from self.variants

    def _crossed(self) -> Iterator[tuple[str, Changes]]:
        """(name, changes) of each combination of the axes' labels."""
        if self.vary:
            for labels in itertools.product(*self.vary.values()):
                changes: Changes = {}
                for axis, label in zip(self.vary.values(), labels, strict=True):
                    changes |= axis[label]
                yield "-".join(labels), changes

    def changes(self) -> dict[str, Changes]:
        """Variant -> its changes of the base."""
        return dict(itertools.chain(self._crossed(), self.variants.items()))

    def trees(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(variant, its description), not yet checked.

        Raises:
            ValueError: a change names a key below a value that is not a section.
        """
        for name, changes in self.changes().items():
            tree = copy.deepcopy(self.base)
            for key, value in names_first(changes.items()):
                try:
                    set_key(tree, key, value)
                except ValueError as error:
                    raise ValueError(f"variant {name}: {key}: {error}") from None
            yield name, tree | {"name": f"{self.name}-{name}"}

    def table_settings(self) -> dict[str, TableSettings]:
        """The tables of the study; if it names none, one table of all variants."""
        return self.tables or {"all": TableSettings(title=self.name)}


def _labelled(axis: str, values: Any) -> Any:
    if not isinstance(values, list):
        return values
    labels = [_label_of(value) for value in values]
    if len(set(labels)) < len(labels):
        raise ValueError(f"vary.{axis}: two values have the same label ({', '.join(labels)}): write LABEL: {{{axis}: VALUE}}")
    return {label: {axis: value} for label, value in zip(labels, values, strict=True)}


def _label_of(value: Any) -> str:
    """The label of a value: `10-20` for `[10, 20]`, `test-vit` for `test_vit`."""
    return re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-") or "none"
