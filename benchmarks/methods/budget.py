"""What a set costs: a budget is the bytes of so many pairs of features, of which a learned similarity takes its share."""

from collections.abc import Mapping

from torch import Tensor

from benchmarks.methods.feature_space import FeatureSpace
from vldd_dist.applications.feature_space.parts import set_bytes
from vldd_dist.models.losses import Loss


def pair_bytes(space: FeatureSpace) -> int:
    """The size of a pair: an image's features and a caption's embedding in fp32."""
    students = space.students()
    return 4 * (students.image_dim + students.text_dim)


def counted_bytes(rows: Mapping[str, Tensor]) -> int:
    """The size of a set: bytes of its floating-point row tensors, as for a published set. A pair's index is not counted."""
    return set_bytes({name: tensor for name, tensor in rows.items() if tensor.is_floating_point()})


def pairs_of_budget(loss: Loss, budget: int, bytes_of_pair: int) -> int:
    """The largest number of pairs that, together with what the loss learns of each pair, take no more bytes than `budget` plain
    pairs."""

    def bytes_of(count: int) -> int:
        similarity = {name: learned.start for name, learned in loss.learned_rows(range(count), count).items()}
        return count * bytes_of_pair + counted_bytes(similarity)

    return next(count for count in range(budget, 0, -1) if bytes_of(count) <= budget * bytes_of_pair)
