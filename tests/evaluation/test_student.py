"""Students on pairs: the learning rate is chosen on validation, and repeats to the bit."""

import pytest
import torch

from vldd_dist.errors import DivergenceError
from vldd_dist.evaluation.encode import RetrievalSplit, measure, retrieval_split
from vldd_dist.evaluation.student import Judge, TrainingPairs, train_student
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.settings import EvaluationSettings, HeadSettings, ImageTowerSettings, ModelSettings

TEXT_DIM = 12


def model(train: str = "full") -> DualEncoder:
    head = HeadSettings(kind="linear") if train == "head" else HeadSettings(kind="none")
    image = ImageTowerSettings(model="test_nfnet", weights="random", train=train, head=head)  # type: ignore[arg-type]
    return build(ModelSettings(image=image, joint_dim=16 if train == "head" else None), TEXT_DIM, None, 0)


def split(pictures: int = 10, seed: int = 0) -> tuple[RetrievalSplit, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (pictures, 3, 32, 32), generator=generator, dtype=torch.uint8)
    texts = torch.randn(pictures, TEXT_DIM, generator=generator)
    return retrieval_split(model(), images, texts, [["x"]] * pictures, 4), images, texts


def judge(rates: list[float], epochs: int = 10) -> Judge:
    settings = EvaluationSettings(epochs=epochs, batch_size=5, learning_rates=rates, encode_batch=4)
    return Judge(model, settings, temperature=0.07, seed=3)


def pairs() -> TrainingPairs:
    _, images, texts = split()
    return TrainingPairs(model().normalise(images), texts, len(images))


def test_a_student_learns_its_pairs() -> None:
    """Validating on the training pairs themselves: recall must rise far above chance."""
    validation, _, _ = split()
    untrained = measure(model(), validation, 4).mean
    choice = judge([0.03], epochs=30).choose(pairs(), validation)
    assert choice.recall.mean > untrained + 20


def test_the_best_rate_on_validation_is_chosen() -> None:
    validation, _, _ = split()
    choice = judge([1e-6, 0.03]).choose(pairs(), validation)
    assert set(choice.validation) == {1e-6, 0.03}
    assert choice.validation[choice.learning_rate].mean == max(recall.mean for recall in choice.validation.values())
    assert measure(choice.student, validation, 4) == choice.recall


def test_a_diverging_rate_is_passed_over_and_all_diverging_is_an_error() -> None:
    validation, _, _ = split()
    assert judge([1e20, 0.01]).choose(pairs(), validation).learning_rate == 0.01
    with pytest.raises(DivergenceError, match=r"every learning rate \(1e\+20\)"):
        judge([1e20]).choose(pairs(), validation)


def test_a_divergence_in_the_very_last_step_is_seen() -> None:
    """One step only: its loss is that of the sound start, its features are not."""
    settings = EvaluationSettings(epochs=1, batch_size=10, learning_rates=[1e30])
    assert not train_student(model(), pairs(), settings, 1e30, 0.07, seed=3)


def test_training_repeats_to_the_bit_and_leaves_the_global_generator() -> None:
    students = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        student = model()
        assert train_student(student, pairs(), judge([0.1]).settings, 0.1, 0.07, seed=3)
        assert torch.equal(torch.random.get_rng_state(), state)
        students.append(student)
    for a, b in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_frozen_backbone_is_measured_by_its_features() -> None:
    frozen = model("head")
    _, images, texts = split()
    prepared = retrieval_split(frozen, images, texts, [["x"]] * 10, 4)
    assert prepared.inputs.shape == (10, frozen.image_backbone.num_features)
    by_hand = frozen.image_head(frozen.image_backbone(frozen.normalise(images)))
    torch.testing.assert_close(frozen.image_features(prepared.inputs), by_hand)
