"""The synthetic pairs, their starts, the outer optimiser, the matching loss, feature space."""

import pytest
import torch

from vldd_dist.config.distillation import DistillSettings
from vldd_dist.config.model import HeadSettings
from vldd_dist.distillation.matching import matching_loss
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import (
    SyntheticPairs,
    kmeans_indices,
    random_indices,
    start_from_noise,
)
from vldd_dist.errors import ConfigError, DataError
from vldd_dist.models.inputs import model_inputs, pixel_gradients
from vldd_dist.testing.unroll_problems import dual_encoder_case, flat, relative


def pairs(count: int = 6) -> SyntheticPairs:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(count, 3, 4, 4, generator=generator), torch.randn(count, 5, generator=generator)
    return SyntheticPairs(images, texts, torch.tensor([0.1, 0.2]).log())


def test_matching_loss_by_hand() -> None:
    start, target = [torch.zeros(2), torch.zeros(3)], [torch.tensor([3.0, 4.0]), torch.ones(3)]
    theta = [torch.tensor([0.0, 4.0]), torch.full((3,), 0.5)]
    assert matching_loss(theta, start, target, [0, 1]).tolist() == pytest.approx([9 / 25, 0.25])
    assert matching_loss(start, start, target, [0, 1]).tolist() == [1, 1]
    assert matching_loss(theta, start, target, [1, 1]).tolist() == pytest.approx([0, (9 + 0.75) / 28])
    with pytest.raises(DataError, match="image tower did not move"):
        matching_loss(theta, start, start, [0, 1])


ALL = torch.arange(6)


def gradients(count: int) -> list[tuple[torch.Tensor, ...]]:
    torch.manual_seed(1)
    return [tuple(torch.randn_like(t) for t in pairs().as_tensors().values()) for _ in range(count)]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_optimisers_state_resumes_to_the_same_bits(name: str) -> None:
    settings = DistillSettings(optimiser=name, lr_images=0.1, lr_texts=0.2, lr_rates=0.03)  # type: ignore[arg-type]
    straight = pairs()
    optimiser = OuterOptimiser(straight, settings)
    for gradient in gradients(4):
        optimiser.step(ALL, *gradient)
    broken = pairs()
    first = OuterOptimiser(broken, settings)
    for gradient in gradients(4)[:2]:
        first.step(ALL, *gradient)
    resumed = broken.clone()
    second = OuterOptimiser(resumed, settings)
    second.load({key: value.clone() for key, value in (first.rows_state() | first.shared_state()).items()})
    for gradient in gradients(4)[2:]:
        second.step(ALL, *gradient)
    for a, b in zip(straight.as_tensors().values(), resumed.as_tensors().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_where_every_step_uses_every_pair_the_optimiser_is_torchs(name: str, momentum: float) -> None:
    settings = DistillSettings(optimiser=name, momentum=momentum, lr_images=0.1, lr_texts=0.2, lr_rates=0.03)  # type: ignore[arg-type]
    ours, theirs = pairs(), pairs()
    groups = [
        {"params": [theirs.images], "lr": 0.1},
        {"params": [theirs.texts], "lr": 0.2},
        {"params": [theirs.log_rates], "lr": 0.03},
    ]
    torchs = torch.optim.Adam(groups, betas=(0.5, 0.9)) if name == "adam" else torch.optim.SGD(groups, momentum=momentum)
    optimiser = OuterOptimiser(ours, settings)
    for images, texts, rates in gradients(5):
        theirs.images.grad, theirs.texts.grad, theirs.log_rates.grad = images, texts, rates * theirs.rates
        torchs.step()
        optimiser.step(ALL, images, texts, rates)
    for a, b in zip(ours.as_tensors().values(), theirs.as_tensors().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_pair_is_moved_by_the_steps_it_takes_part_in_alone(name: str) -> None:
    settings = DistillSettings(optimiser=name, lr_images=0.1, lr_texts=0.2, lr_rates=0)  # type: ignore[arg-type]
    apart, together = pairs(), pairs()
    alone, all_the_time = OuterOptimiser(apart, settings), OuterOptimiser(together, settings)
    some = torch.tensor([1, 4])
    for images, texts, rates in gradients(3):
        all_the_time.step(ALL, images, texts, rates)
        alone.step(torch.tensor([0, 2]), images[[0, 2]], texts[[0, 2]], rates)
        alone.step(some, images[some], texts[some], rates)
    torch.testing.assert_close(apart.images[[0, 1, 2, 4]], together.images[[0, 1, 2, 4]])
    assert torch.equal(apart.images[[3, 5]], pairs().images[[3, 5]])
    assert torch.equal(apart.log_rates, pairs().log_rates)


def test_rates_move_as_logarithms_and_stay_positive() -> None:
    moved = pairs()
    nothing = torch.zeros_like(moved.images), torch.zeros_like(moved.texts)
    settings = DistillSettings(optimiser="sgd", momentum=0, lr_rates=0.5)
    OuterOptimiser(moved, settings).step(ALL, *nothing, torch.tensor([100.0, -1.0]))
    # d loss / d log a = a * d loss / da
    expected = torch.tensor([0.1, 0.2]).log() - 0.5 * torch.tensor([100.0 * 0.1, -1.0 * 0.2])
    torch.testing.assert_close(moved.log_rates, expected)
    assert bool((moved.rates > 0).all())


def test_starts() -> None:
    assert len(set(random_indices(20, 20, 0))) == 20
    with pytest.raises(ConfigError, match=r"distill.pairs \(21\) is more than the training pictures \(20\)"):
        random_indices(20, 21, 0)
    centres = torch.eye(3).repeat_interleave(10, 0) * 10
    features = centres + 0.1 * torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    chosen = kmeans_indices(features, 3, 0)
    assert sorted(index // 10 for index in chosen) == [0, 1, 2]
    vectors = torch.randn(500, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    noise, some = (
        start_from_noise(rows, (3, 2, 2), vectors, DistillSettings(), 0, torch.device("cpu"))
        for rows in (range(4000), range(10, 20))
    )
    assert torch.equal(noise.images[10:20], some.images)
    assert torch.equal(noise.texts[10:20], some.texts)
    torch.testing.assert_close(noise.texts.mean(0), vectors.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(noise.texts.std(0), vectors.std(0), atol=0.3, rtol=0)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_picture_is_near_one_centre_only() -> None:
    """Of equal pictures each centre has another."""
    assert sorted(kmeans_indices(torch.ones(5, 3), 5, 0)) == list(range(5))


def test_feature_space_is_the_general_path() -> None:
    """Frozen backbone: unroll on features and one product to the pixels, against pictures in every inner step."""
    image = {"train": "head", "head": HeadSettings(kind="linear")}
    general = dual_encoder_case(steps=3, dtype=torch.float64, **image)
    images = [batch[0] for batch in general.batches]
    general.student.model.frozen_backbone = False
    wanted = flat(general.gradient("full"))
    model = general.student.model
    model.frozen_backbone = True
    general.batches = [[model_inputs(model, batch[0]), batch[1]] for batch in general.batches]
    result = general.gradient("exact")
    found = torch.cat(
        [
            torch.cat([pixel_gradients(model, pictures, gradient[0]).flatten(), gradient[1].flatten()])
            for pictures, gradient in zip(images, result.batches, strict=True)
        ]
    )
    assert relative(found, wanted) < 1e-10
