"""The synthetic pairs, their starts, the outer optimiser, the matching loss, feature space."""

import pytest
import torch

from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.model import HeadSettings
from vldd_dist.distillation.initialisations.noise import noise_pairs
from vldd_dist.distillation.initialisations.real import random_indices
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.errors import ConfigError, DataError
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.testing.unroll_cases import dual_encoder_case, flat, relative


def pairs(count: int = 6) -> SyntheticPairs:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(count, 3, 4, 4, generator=generator), torch.randn(count, 5, generator=generator)
    return SyntheticPairs({"images": images, "texts": texts}, {"log_rates": torch.tensor([0.1, 0.2]).log()})


def test_matching_loss_by_hand() -> None:
    start, target = [torch.zeros(2), torch.zeros(3)], [torch.tensor([3.0, 4.0]), torch.ones(3)]
    theta = [torch.tensor([0.0, 4.0]), torch.full((3,), 0.5)]
    assert matching_loss(theta, start, target, [0, 1]).tolist() == pytest.approx([9 / 25, 0.25])
    assert matching_loss(start, start, target, [0, 1]).tolist() == [1, 1]
    assert matching_loss(theta, start, target, [1, 1]).tolist() == pytest.approx([0, (9 + 0.75) / 28])
    with pytest.raises(DataError, match="image tower did not move"):
        matching_loss(theta, start, start, [0, 1])


ALL = torch.arange(6)


RATES = {"images": 0.1, "texts": 0.2, "log_rates": 0.03}
Named = dict[str, torch.Tensor]


def tensors_of(some: SyntheticPairs) -> Named:
    return some.rows | some.shared


def gradients(count: int) -> list[tuple[Named, Named]]:
    """Gradients of rows and of shared tensors."""
    torch.manual_seed(1)
    start = pairs()

    def like(named: Named) -> Named:
        return {name: torch.randn_like(tensor) for name, tensor in named.items()}

    return [(like(start.rows), like(start.shared)) for _ in range(count)]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_restored_optimiser_gives_bit_identical_steps(name: str) -> None:
    settings = DistillationSettings(optimiser=name)  # type: ignore[arg-type]
    straight = pairs()
    optimiser = OuterOptimiser(straight, RATES, settings)
    for gradient in gradients(4):
        optimiser.step(ALL, *gradient)
    broken = pairs()
    first = OuterOptimiser(broken, RATES, settings)
    for gradient in gradients(4)[:2]:
        first.step(ALL, *gradient)
    resumed = broken.clone()
    second = OuterOptimiser(resumed, RATES, settings)
    # As when a checkpoint is read, where the states share memory with the optimiser.
    for name, value in (second.rows_state() | second.shared_state()).items():
        value.copy_((first.rows_state() | first.shared_state())[name])
    for gradient in gradients(4)[2:]:
        second.step(ALL, *gradient)
    for a, b in zip(tensors_of(straight).values(), tensors_of(resumed).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_optimiser_equals_torchs_if_every_step_uses_every_pair(name: str, momentum: float) -> None:
    settings = DistillationSettings(optimiser=name, momentum=momentum)  # type: ignore[arg-type]
    ours, theirs = pairs(), pairs()
    groups = [{"params": [tensor], "lr": RATES[name]} for name, tensor in tensors_of(theirs).items()]
    torchs = torch.optim.Adam(groups, betas=(0.5, 0.9)) if name == "adam" else torch.optim.SGD(groups, momentum=momentum)
    optimiser = OuterOptimiser(ours, RATES, settings)
    for rows, shared in gradients(5):
        for name, tensor in tensors_of(theirs).items():
            tensor.grad = (rows | shared)[name]
        torchs.step()
        optimiser.step(ALL, rows, shared)
    for a, b in zip(tensors_of(ours).values(), tensors_of(theirs).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_pair_moves_only_in_steps_that_use_it(name: str) -> None:
    settings = DistillationSettings(optimiser=name)  # type: ignore[arg-type]
    apart, together = pairs(), pairs()
    alone, all_the_time = (OuterOptimiser(moved, RATES, settings) for moved in (apart, together))
    some = torch.tensor([1, 4])
    for rows, _ in gradients(3):
        all_the_time.step(ALL, rows, {})
        for chosen in (torch.tensor([0, 2]), some):
            alone.step(chosen, {name: gradient[chosen] for name, gradient in rows.items()}, {})
    torch.testing.assert_close(apart.images[[0, 1, 2, 4]], together.images[[0, 1, 2, 4]])
    assert torch.equal(apart.images[[3, 5]], pairs().images[[3, 5]])
    # A tensor without a gradient does not change.
    assert torch.equal(apart.shared["log_rates"], pairs().shared["log_rates"])


def test_random_indices_and_noise_pairs() -> None:
    assert len(set(random_indices(20, 20, 0))) == 20
    assert set(random_indices(20, 17, 0, taken=frozenset({3, 5, 19}))) == set(range(20)) - {3, 5, 19}
    with pytest.raises(ConfigError, match=r"distill.pairs \(18\) is more than the training images \(20, of which .* use 3\)"):
        random_indices(20, 18, 0, taken=frozenset({3, 5, 19}))
    with pytest.raises(ConfigError, match=r"distill.pairs \(21\) is more than the training images \(20\)"):
        random_indices(20, 21, 0)
    vectors = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    noise, some = (noise_pairs(rows, (3, 2, 2), vectors.mean(0), vectors.std(0), 0) for rows in (range(4000), range(10, 20)))
    assert all(torch.equal(ours[10:20], theirs) for ours, theirs in zip(noise, some, strict=True))
    _, texts = noise
    torch.testing.assert_close(texts.mean(0), vectors.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(texts.std(0), vectors.std(0), atol=0.3, rtol=0)


def test_unrolling_on_features_gives_the_gradient_of_unrolling_on_images() -> None:
    """With a frozen backbone, an unroll on features with one product to the pixels equals one with images in every inner
    step."""
    image = {"train": "head", "head": HeadSettings(kind="linear")}
    general = dual_encoder_case(steps=3, dtype=torch.float64, **image)
    images = [batch[0] for batch in general.batches]
    general.student.model.freezes_backbone = False
    wanted = flat(general.gradient("full"))
    model = general.student.model
    model.freezes_backbone = True
    frozen = FrozenBackbone(model.image_backbone)
    encoded = [frozen.features_with_graph(pictures, limit=0) for pictures in images]
    general.batches = [[one.features, batch[1]] for one, batch in zip(encoded, general.batches, strict=True)]
    result = general.gradient("exact")
    found = torch.cat(
        [
            torch.cat([one.pixel_gradients(gradient[0]).flatten(), gradient[1].flatten()])
            for one, gradient in zip(encoded, result.batch_gradients, strict=True)
        ]
    )
    assert relative(found, wanted) < 1e-10
