"""Losses with a similarity compared with their formulas in numpy; their derivatives, and the tensors that they learn."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vldd_dist.config.base import choose
from vldd_dist.models.losses.graded import GradedLoss
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.plugins import LOSSES

NAMES = ("wbce", "weighted_infonce", "ence", "cwcl", "mse")
LOW_RANK = {"kind": "low_rank", "rank": 3, "alpha": 2.0, "lr": 0.5}
BOTH = [LOW_RANK, {"kind": "full", "lr": 0.5}]


def loss_of(name: str, **settings: Any) -> GradedLoss:
    return choose(LOSSES, {"name": name, "temperature": 0.3, **settings})


def features(seed: int = 0, count: int = 5) -> tuple[Tensor, Tensor]:
    """Features of images and texts (count, 7), float64."""
    image, text = np.random.default_rng(seed).normal(size=(2, count, 7))
    return torch.from_numpy(image), torch.from_numpy(text)


def moved_rows(similarity: dict[str, Any], total: int = 8) -> dict[str, Tensor]:
    """The row tensors of all pairs that a loss learns, float64, with values that differ from the start."""
    generator = torch.Generator().manual_seed(1)
    owned = loss_of("wbce", similarity=similarity).learned_rows(range(total), total)
    return {
        name: one.start.double() + 0.3 * torch.randn(one.start.shape, generator=generator) if one.lr else one.start
        for name, one in owned.items()
    }


def whole(similarity: dict[str, Any], rows: dict[str, Tensor]) -> np.ndarray:
    """S of all pairs, computed element by element."""
    named = {name: rows.numpy() for name, rows in rows.items()}
    if similarity["kind"] == "full":
        return named["similarity"]
    diagonal, left, right = (named[f"similarity_{part}"] for part in ("diagonal", "left", "right"))
    scale = similarity["alpha"] / similarity["rank"]
    total = len(diagonal)
    return np.array(
        [[scale * np.dot(left[i], right[j]) + (diagonal[i] if i == j else 0) for j in range(total)] for i in range(total)]
    )


def by_formula(name: str, image: np.ndarray, text: np.ndarray, s: np.ndarray, tau: float = 0.3) -> float:
    """The loss, computed for one image and text at a time."""
    count = range(len(image))
    unit_image, unit_text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    logits = unit_image @ unit_text.T / tau
    p = 1 / (1 + np.exp(-logits))
    if name == "mse":
        return float(np.mean([(p[i, j] - s[i, j]) ** 2 for i in count for j in count]))
    if name == "wbce":
        each = {True: [], False: []}
        for i in count:
            for j in count:
                of_pair = -s[i, j] * np.log(p[i, j] + 1e-6) - (1 - s[i, j]) * np.log(1 - p[i, j] + 1e-6)
                each[bool(s[i, j] > 0.5)].append(of_pair)
        return float(np.mean(each[True]) + np.mean(each[False])) / 2
    sides = []
    for scores, weights in ((logits, s), (logits.T, s.T)):
        rows = []
        for score, weight in zip(scores, weights, strict=True):
            log_p = score - np.log(np.exp(score).sum())
            if name == "weighted_infonce":
                q = np.exp(weight / 0.1) / np.exp(weight / 0.1).sum()
                rows.append((q * (np.log(q) - log_p)).sum())
            else:
                rows.append(-(weight * log_p).sum() / (weight.sum() if name == "cwcl" else 1))
        sides.append(np.mean(rows))
    return float(sum(sides)) / 2


@pytest.mark.parametrize("similarity", BOTH, ids=lambda given: given["kind"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_minibatch_is_the_formula_with_its_rows_and_columns_of_s(name: str, similarity: dict[str, Any]) -> None:
    image, text = features()
    rows, drawn = moved_rows(similarity), torch.tensor([6, 0, 3, 7, 2])
    wanted = by_formula(name, image.numpy(), text.numpy(), whole(similarity, rows)[np.ix_(drawn, drawn)])
    found = loss_of(name, similarity=similarity)(image, text, {key: values[drawn] for key, values in rows.items()})
    assert float(found) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("similarity", [*BOTH, "none"], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_it_starts_as_the_identity_which_real_pairs_have(name: str, similarity: Any) -> None:
    image, text = features()
    loss = loss_of(name, similarity=similarity)
    rows = {key: one.start[torch.arange(5)] for key, one in loss.learned_rows(range(5), 5).items()}
    wanted = by_formula(name, image.numpy(), text.numpy(), np.eye(5))
    assert float(loss(image, text)) == pytest.approx(wanted, rel=1e-9)
    assert float(
        loss(image, text, {key: value.double() if value.is_floating_point() else value for key, value in rows.items()})
    ) == pytest.approx(wanted, rel=1e-9)
    alone = loss.of_real_pairs()
    assert alone == loss_of(name).of_real_pairs()
    assert alone.learned_rows(range(5), 5) == {}
    assert torch.equal(alone(image, text), loss(image, text))


@pytest.mark.parametrize("name", ["ence", "cwcl"])
def test_with_the_identity_it_is_infonce(name: str) -> None:
    image, text = features()
    torch.testing.assert_close(loss_of(name)(image, text), InfoNCE(temperature=0.3)(image, text))


@pytest.mark.parametrize("similarity", BOTH, ids=lambda given: given["kind"])
@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivatives(name: str, similarity: dict[str, Any]) -> None:
    """Derivatives by features, by the learned tensors of S, and by the logarithm of a temperature."""
    loss = loss_of(name, similarity=similarity, learn_temperature=True)
    rows = {key: values[:3] for key, values in moved_rows(similarity, 3).items()}
    moving = [key for key, values in rows.items() if values.is_floating_point()]

    def of(image: Tensor, text: Tensor, logarithm: Tensor, *learned: Tensor) -> Tensor:
        return loss(image, text, rows | dict(zip(moving, learned, strict=True)), {"log_temperature": logarithm})

    logarithm = torch.tensor([0.3], dtype=torch.float64).log()
    inputs = [tensor.requires_grad_() for tensor in (*features(count=3), logarithm, *(rows[key] for key in moving))]
    assert torch.autograd.gradcheck(of, inputs)
    assert torch.autograd.gradgradcheck(of, inputs)


@pytest.mark.parametrize("name", [*NAMES, "infonce"])
def test_settings_are_not_ignored(name: str) -> None:
    """Those that learned tensors have are tested with these."""
    plain = choose(LOSSES, name)
    numbers = [key for key in type(plain).model_fields if isinstance(getattr(plain, key), float) and key != "lr_temperature"]
    assert "temperature" in numbers
    for key in numbers:
        other = choose(LOSSES, {"name": name, key: 1.5 * getattr(plain, key)})
        assert float(other(*features())) != pytest.approx(float(plain(*features())), rel=1e-3), key


def test_wbce_is_finite_where_no_similarity_is_above_the_mask_and_where_all_are() -> None:
    image, text = features(count=2)
    loss = loss_of("wbce", similarity="full")
    for value in (0.1, 0.9):
        rows = {"similarity": torch.full((2, 2), value, dtype=torch.float64), "number": torch.arange(2)}
        p = torch.sigmoid(torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T / 0.3)
        wanted = (-value * (p + 1e-6).log() - (1 - value) * (1 - p + 1e-6).log()).mean() / 2
        torch.testing.assert_close(loss(image, text, rows), wanted)


def test_a_pair_starts_alike_whatever_the_rank_that_owns_it() -> None:
    for similarity in BOTH:
        loss = loss_of("wbce", similarity=similarity)
        all_rows, some = loss.learned_rows(range(7), 7), loss.learned_rows(range(4, 6), 7)
        assert list(all_rows) == list(some)
        assert all(torch.equal(all_rows[key].start[4:6], one.start) for key, one in some.items())
    left = loss_of("wbce", similarity={"rank": 50}).learned_rows(range(100), 100)["similarity_left"].start
    assert abs(float(left.mean())) < 0.05
    assert float(left.std()) == pytest.approx(1, abs=0.05)


def test_learned_rows_and_their_learning_rates() -> None:
    def rates(similarity: Any) -> dict[str, float]:
        return {name: one.lr for name, one in loss_of("wbce", similarity=similarity).learned_rows(range(2), 2).items()}

    assert rates(LOW_RANK) == {"similarity_diagonal": 0.5, "similarity_left": 0.5, "similarity_right": 0.5}
    assert rates("full") == {"similarity": 0.005, "number": 0}
    assert rates("none") == {}
    for similarity in (LOW_RANK, "full"):
        some, none = (loss_of("wbce", similarity=similarity).learned_rows(range(count), 2) for count in (2, 0))
        kinds = [{name: (one.start.shape[1:], one.start.dtype) for name, one in rows.items()} for rows in (some, none)]
        assert kinds[0] == kinds[1]
    without_kind = loss_of("wbce", similarity={"rank": 2})
    assert without_kind == loss_of("wbce", similarity={"kind": "low_rank", "rank": 2})


@pytest.mark.parametrize(
    ("similarity", "sentence"),
    [("half", "half"), ({"kind": "full", "rank": 3}, "rank"), ({"rank": 0}, "greater than 0"), (3, "similarity")],
)
def test_other_settings_are_refused(similarity: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        loss_of("wbce", similarity=similarity)
