"""An outer step of the objectives other than trajectory matching, which the unroll's own tests cover."""

from tests.distributed.feature_runs import FIVE_PAIRS, with_inputs
from vldd_dist.store.store import Store

# With everything that a step may bring to the device: real pairs and their features, noise, experts' weights, moments, tensors
# that the loss owns.
OBJECTIVES = {
    "bilevel": [
        "distill.objective={name: bilevel, real_batch_size: 7, inner_steps: 2, skipped_steps: 2}",
        "model.loss={name: wbce, similarity: full, learn_temperature: true}",
        "model.image.head.kind=linear",
        "model.image.train=head",
    ],
    "covariance_matching": ["distill.objective={name: covariance_matching, real_batch_size: 7}"],
    "distribution_matching": [
        "distill.objective={name: distribution_matching, last_epoch: 2, pairs_per_step: 3, real_batch_size: 7}"
    ],
    "whitened_matching": [
        "distill.objective={name: whitened_matching}",
        "model.image.train=head",
        "model.image.weights=attributes",
        "pretrain.images=32",
        "pretrain.epochs=1",
    ],
}
STEP = 3


def prepared(name: str, store: Store) -> list[str]:
    """Make the inputs of a distillation by the objective; returns its overrides."""
    overrides = [*FIVE_PAIRS, "experts.count=1", "experts.epochs=2", *OBJECTIVES[name]]
    with_inputs(store, overrides)
    return overrides
