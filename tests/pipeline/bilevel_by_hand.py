"""The outer gradient of the bilevel objective, as the objective computes it and by an explicit training loop."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.config.experiment import Experiment
from vldd_dist.data.prepared.batches.real_batches import RealBatches
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.objectives.outer_problem import OuterGradient
from vldd_dist.models.heads import build_head
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.seeding import derive_seed, numpy_generator
from vldd_dist.sharding.ranks import SOLO
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, units_of, workspace

SETTINGS = "name: bilevel, real_batch_size: 7, inner_steps: 3, skipped_steps: 4"
ALONE = ", teacher_weight: 0"
OVERRIDES = [
    "distill.pairs=[5]",
    "distill.outer_steps=12",
    "distill.validate_every=6",
    "distill.checkpoint_every=4",
    "model.image.head.kind=linear",
    "model.joint_dim=16",
    "model.text.head.dropout=0",
]
# Rounding errors grow with the rates.
RATES = (0.1, 0.2)


def described(objective: str, train: str = "head", *overrides: str) -> Experiment:
    """An experiment without a teacher, unless the objective's settings have one."""
    alone = "" if "teacher" in objective else ALONE
    return experiment(
        *OVERRIDES, f"distill.objective={{{SETTINGS}{alone}{objective}}}", f"model.image.train={train}", *overrides
    )


def context_of(store: Store, tree: Experiment) -> StageContext:
    (unit,) = units_of(tree, "distillation")
    return workspace(store, unit)


def found_gradient(store: Store, tree: Experiment, step: int) -> OuterGradient:
    context = context_of(store, tree)
    inputs = distillation_context(context, tree.distill.distillation_settings(), context.build_model(0))
    pairs, _ = starting_pairs(inputs)
    with inputs.settings.objective.open(inputs) as problem:
        return problem.gradient(step, pairs)


def contrast(features: tuple[Tensor, Tensor]) -> Tensor:
    logits = functional.normalize(features[0]) @ functional.normalize(features[1]).T / 0.07
    own = torch.arange(len(logits))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def plain(images: Tensor, texts: Tensor, rows: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
    return contrast((images, texts))


def by_hand(store: Store, tree: Experiment, step: int, of_features: Any = plain) -> tuple[Tensor, dict[str, Tensor]]:
    """The outer loss, and its gradient with respect to the pairs' rows, log rates and the loss's shared tensors, by one graph
    over the last three steps. Momentum and weight decay are those of the evaluation.

    Args:
        of_features: called like a `Loss`.
    """
    context = context_of(store, tree)
    model = context.build_model(0)
    settings = tree.distill.distillation_settings()
    pairs, _ = starting_pairs(distillation_context(context, settings, model))
    seed = derive_seed(0, "distillation", 5)
    start_seed = derive_seed(seed, "heads", step)
    if tree.model.image.train == "full":
        backbone_seed = derive_seed(start_seed, "backbone")
        model.image_backbone = create_backbone(tree.model.image.model, {}, pretrained=False, seed=backbone_seed).eval()
    torch.manual_seed(start_seed)
    model.image_head = build_head(tree.model.image.head, model.image_backbone.num_features, 16)
    model.text_head = build_head(tree.model.text.head, model.text_dim, 16)
    skip = int(numpy_generator(seed, "bilevel", step).integers(5)) if step % 2 else 0
    momentum, weight_decay = tree.evaluation.momentum, tree.evaluation.weight_decay
    leaves = {**pairs.rows, **pairs.shared, "log_rates": torch.tensor(RATES).log()}
    learned = [name for name, tensor in leaves.items() if tensor.is_floating_point()]
    for name in learned:
        leaves[name].requires_grad_()
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    velocity = {name: torch.zeros_like(p) for name, p in theta.items()}

    def features(theta: dict[str, Tensor], images: Tensor, texts: Tensor) -> Any:
        inputs = model.image_backbone(images) if model.freezes_backbone else images
        return torch.func.functional_call(model, theta, (inputs, texts))

    for number in range(skip + 3):
        on = {name: tensor.detach() if number < skip else tensor for name, tensor in leaves.items()}
        rows, shared = ({name: on[name] for name in of} for of in (pairs.rows, pairs.shared))
        loss = of_features(*features(theta, on["images"], on["texts"]), rows, shared)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=number >= skip)
        for (name, parameter), gradient in zip(list(theta.items()), gradients, strict=True):
            velocity[name] = momentum * velocity[name] + gradient + weight_decay * parameter
            theta[name] = parameter - on["log_rates"].exp()[int(name.startswith("text"))] * velocity[name]
        if number < skip:
            theta = {name: p.detach().requires_grad_() for name, p in theta.items()}
            velocity = {name: u.detach() for name, u in velocity.items()}
    batches = RealBatches(
        context.embeddings, context.dataset, 7, derive_seed(0, "distillation", 5, "real"), SOLO.rows_to_compute
    )
    batch = batches[step]
    loss = of_features(*features(theta, model.normalise(batch.images), batch.texts), {}, {})
    wanted = torch.autograd.grad(loss, [leaves[name] for name in learned])
    return loss.detach(), dict(zip(learned, wanted, strict=True))
