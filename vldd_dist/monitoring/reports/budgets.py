"""The sizes in bytes of the sets that a table compares."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import LoadedStudy
from vldd_dist.config.study import TableSettings
from vldd_dist.errors import ConfigError
from vldd_dist.method_names import DISTILLED
from vldd_dist.models.losses import Loss
from vldd_dist.models.losses.base import row_bytes
from vldd_dist.pipeline.graphs.model_checks import known_text_dim

FP32 = 4
# Variant -> size of its caption embeddings; None if it is not known.
DimOf = Callable[[str], int | None]


@dataclass(frozen=True)
class BudgetedSet:
    """A set to which an entry PAIRS: PAIRS of `budgets` applies.

    Attributes:
        pairs, budget: the entry.
        pair_bytes: bytes of a plain pair: an image and a caption's embedding.
        loss: the loss that learns tensors of the set; None: it consists of plain pairs.
    """

    variant: str
    pairs: int
    budget: int
    pair_bytes: int
    loss: Loss | None

    @property
    def plain(self) -> int:
        """Bytes of `budget` plain pairs."""
        return self.budget * self.pair_bytes

    def size(self, pairs: int) -> int:
        """Bytes of a set of so many pairs, counted as by `DistilledSet.sizes`."""
        return pairs * self.pair_bytes + (_learned_bytes(self.loss, pairs) if self.loss else 0)


def _learned_bytes(loss: Loss, pairs: int) -> int:
    """Bytes of the floating-point tensors that the loss learns of a set of so many pairs."""
    # Without a row, because a full similarity of many pairs would not fit into memory.
    of_pair = row_bytes(loss.learned_rows(range(0), pairs), floating_only=True)
    shared = [learned.start for learned in loss.learned_shared().values()]
    return pairs * sum(of_pair.values()) + sum(start.nbytes for start in shared if start.is_floating_point())


def _pair_bytes(experiment: Experiment, dim: int, image_dim: int | None = None) -> int:
    return FP32 * ((image_dim or 3 * experiment.data.image_size**2) + dim)


def sizes_with_similarity(experiment: Experiment, dim: int, image_dim: int | None = None) -> dict[int, tuple[int, int]]:
    """For each number of pairs of an experiment whose loss learns a similarity, the bytes of a distilled set and those of as
    many real pairs.

    Args:
        dim: size of the caption embeddings.
        image_dim: size of the features that pairs have as their images; None: they have pixels.
    """
    loss, of_pair = experiment.model.loss, _pair_bytes(experiment, dim, image_dim)
    if not loss.learned_rows(range(0), 1):
        return {}
    return {pairs: (pairs * of_pair + _learned_bytes(loss, pairs), pairs * of_pair) for pairs in experiment.distill.pairs}


def budgeted_sets(table: TableSettings, experiments: Mapping[str, Experiment], dim_of: DimOf) -> Iterator[BudgetedSet]:
    """The sets of a table to which its `budgets` apply, of the variants whose `dim_of` is known.

    Args:
        experiments: variant -> its experiment.
    """
    for variant in table.variants or experiments:
        experiment = experiments[variant]
        entries = [(pairs, budget) for pairs, budget in table.budgets.items() if pairs in experiment.distill.pairs]
        if entries and (dim := dim_of(variant)) is not None:
            pair_bytes = _pair_bytes(experiment, dim)
            loss = experiment.model.loss if DISTILLED in table.methods else None
            yield from (BudgetedSet(variant, pairs, budget, pair_bytes, loss) for pairs, budget in entries)


def compared_sizes(table: TableSettings, experiments: Mapping[str, Experiment], dim_of: DimOf) -> dict[int, dict[int, int]]:
    """See `Layout.sizes`."""
    sizes: dict[int, dict[int, int]] = {}
    for one in budgeted_sets(table, experiments, dim_of):
        of_plain = sizes.setdefault(one.pairs, {})
        of_plain[one.plain] = max(one.size(one.pairs), of_plain.get(one.plain, 0))
    return sizes


def check_budgets(study: LoadedStudy) -> None:
    """Check before anything runs that no set of a table is larger than the plain pairs with which it is compared. Where a text
    encoder's configuration cannot be read on this machine, the note below the table still states both sizes.

    Raises:
        ConfigError: a set is larger; or a text encoder's folder has no readable configuration.
    """

    def dim_of(variant: str) -> int | None:
        return known_text_dim(study.experiments[variant].model.text)

    for name, table in study.study.table_settings().items():
        for one in budgeted_sets(table, study.experiments, dim_of):
            size, plain = one.size(one.pairs), one.plain
            if size > plain:
                fitting = next((pairs for pairs in range(one.budget, 0, -1) if one.size(pairs) <= plain), 0)
                raise ConfigError(
                    f"tables.{name}.budgets: {one.pairs}: a set of {one.variant} has {size:,} bytes, more than the {plain:,} "
                    f"bytes of {one.budget:,} plain pairs, into which {fitting:,} of its pairs fit: change distill.pairs and "
                    "the entry"
                )
