"""Training students on pairs: the learning rate is chosen on validation, and results are bit-identical when repeated."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_students import TEXT_DIM, evaluator, model, pairs, split
from vldd_dist import training_loop
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.errors import DivergenceError
from vldd_dist.evaluation.evaluator import Choice, Evaluator, TrainingPairs, train_student
from vldd_dist.events import Progress, UnitReport
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.image.frozen_backbone import FrozenBackbone
from vldd_dist.models.losses.base import NONE
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.pipeline.work_unit import in_dependency_order
from vldd_dist.retrieval.encode import encode_images, encode_texts, measure, retrieval_split
from vldd_dist.seeding import numpy_generator
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of


def test_a_student_learns_its_pairs() -> None:
    """Validating on the training pairs themselves: recall must rise far above chance."""
    validation, _, _ = split()
    untrained = measure(model(), validation, 4).mean
    choice = evaluator([0.03], epochs=30).choose(pairs(), validation)
    assert choice.recall.mean > untrained + 20


def test_the_best_rate_on_validation_is_chosen() -> None:
    validation, _, _ = split()
    choice = evaluator([1e-6, 0.03]).choose(pairs(), validation)
    assert set(choice.validation) == {1e-6, 0.03}
    assert choice.validation[choice.learning_rate].mean == max(recall.mean for recall in choice.validation.values())
    assert measure(choice.student, validation, 4) == choice.recall


def test_each_epoch_of_each_student_is_reported() -> None:
    """A student that diverges ends early."""
    validation, _, _ = split()
    reported: list[tuple[int, int]] = []
    evaluator([0.01, 1e20, 0.02], epochs=2).choose(pairs(), validation, lambda *done: reported.append(done))
    assert [done for done in reported if done != (4, 6)] == [(1, 6), (2, 6), (3, 6), (5, 6), (6, 6)]


def test_an_evaluation_reports_its_progress(store: Store) -> None:
    """Otherwise the stall timeout would stop a healthy one."""
    tree = experiment("evaluation.learning_rates=[0.01, 0.1]", "evaluation.epochs=2", "coresets.methods=[random]")
    unit = next(unit for unit in units_of(tree, "evaluation") if "coreset" in [one.kind for one in unit.inputs.values()])
    reports: list[UnitReport] = []
    needed = in_dependency_order([unit])
    run(store, needed[:-1])
    run(store, needed, reports.append)
    assert reports == [Progress(done, 4) for done in range(1, 5)]


def test_a_diverging_rate_is_passed_over_and_all_diverging_is_an_error() -> None:
    validation, _, _ = split()
    assert evaluator([1e20, 0.01]).choose(pairs(), validation).learning_rate == 0.01
    with pytest.raises(DivergenceError, match=r"every learning rate \(1e\+20\)"):
        evaluator([1e20]).choose(pairs(), validation)


def test_a_divergence_in_the_very_last_step_is_seen() -> None:
    """With a single step, the loss is that of the finite start, but the features afterwards are not finite."""
    settings = EvaluationProtocol(epochs=1, batch_size=10, learning_rates=[1e30])
    assert not train_student(model(), pairs().in_model_inputs(model()), settings, 1e30, InfoNCE(), seed=3)


def test_training_repeats_to_the_bit_and_leaves_the_global_generator() -> None:
    students = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        student = model()
        assert train_student(student, pairs().in_model_inputs(student), evaluator([0.1]).settings, 0.1, InfoNCE(), seed=3)
        assert torch.equal(torch.random.get_rng_state(), state)
        students.append(student)
    for a, b in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_split_for_a_frozen_backbone_holds_its_features() -> None:
    frozen = model("head")
    _, images, texts = split()
    prepared = retrieval_split(frozen, images, texts, torch.arange(10), 4)
    assert prepared.inputs.shape == (10, frozen.image_backbone.num_features)
    by_hand = frozen.image_head(frozen.image_backbone(frozen.normalise(images)))
    torch.testing.assert_close(frozen.image_features(prepared.inputs), by_hand)


def trained(rate: float = 0.05, temperature: float = 0.07, seed: int = 3, dropout: float = 0, **changes: Any) -> torch.Tensor:
    """All parameters of a student after its training, flat."""
    head = HeadSettings(kind="projection", dropout=dropout)
    image = ImageTowerSettings(model="test_nfnet", weights="random", train="head", head=head)
    student = build(ModelSettings(image=image, joint_dim=16), TEXT_DIM, None, 0)
    settings = EvaluationProtocol.model_validate({"epochs": 3, "batch_size": 5, "learning_rates": [rate], **changes})
    assert train_student(student, pairs().in_model_inputs(student), settings, rate, InfoNCE(temperature=temperature), seed)
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters() if parameter.requires_grad])


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0.04},
        {"temperature": 0.1},
        {"seed": 4},
        {"dropout": 0.5},
        {"epochs": 2},
        {"batch_size": 4},
        {"momentum": 0.5},
        {"weight_decay": 0.05},
    ],
    ids=str,
)
def test_no_setting_of_a_student_is_ignored(change: dict[str, Any]) -> None:
    assert not torch.equal(trained(), trained(**change))


def test_a_student_is_trained_with_the_tensors_that_the_loss_learned() -> None:
    """Each batch gets the rows of row tensors that belong to it, in its order, and all shared tensors of the loss, but
    not those of the objective."""
    seen: list[tuple[Tensor, dict[str, Tensor]]] = []

    class Watched(InfoNCE):
        def __call__(
            self,
            image_features: Tensor,
            text_features: Tensor,
            rows: Mapping[str, Tensor] = NONE,
            shared: Mapping[str, Tensor] = NONE,
        ) -> Tensor:
            seen.append((rows["numbers"], dict(shared)))
            return super().__call__(image_features, text_features, rows, shared)

    given, logarithm = pairs(), torch.tensor([-1.0])
    shared = {"log_temperature": logarithm, "log_rates": torch.zeros(2)}
    learned = TrainingPairs({**given.rows, "numbers": torch.arange(10)}, 10, shared=shared)
    settings = EvaluationProtocol(epochs=1, batch_size=5, learning_rates=[0.1])
    assert train_student(model(), learned.in_model_inputs(model()), settings, 0.1, Watched(learn_temperature=True), seed=3)
    order = numpy_generator(3, "student", 0).permutation(10)
    assert [numbers.tolist() for numbers, _ in seen[:2]] == [sorted(order[:5]), sorted(order[5:])]
    assert all(set(of_loss) == {"log_temperature"} and of_loss["log_temperature"] is logarithm for _, of_loss in seen)


def test_no_step_has_far_fewer_pairs_than_the_others() -> None:
    """402 pairs in batches of 100 would leave two, whose step would weigh as much as any other."""
    of_sizes = {(402, 100): [81, 81, 80, 80, 80], (129, 128): [65, 64], (200, 100): [100, 100], (7, 9): [7]}
    for (total, batch_size), sizes in of_sizes.items():
        batches = training_loop.even_batches(torch.arange(total), batch_size)
        assert [len(batch) for batch in batches] == sizes
        assert torch.equal(torch.cat(batches), torch.arange(total))
    steps: list[int] = []

    def loss_of(batch: Tensor) -> Tensor:
        steps.append(len(batch))
        return torch.tensor(0.0)

    protocol = EvaluationProtocol(epochs=1, batch_size=4, learning_rates=[0.1])
    training_loop.train_epochs([], loss_of, lambda loss: None, [torch.arange(9)], protocol, 0, torch.device("cpu"))
    assert steps[:-1] == [3, 3, 3]


def test_epochs_have_orders_of_their_own_and_dropout_draws_by_seed() -> None:
    """Each epoch orders the pairs differently, and dropout masks depend on the seed."""
    orders = []

    def watched(*parts: int | str) -> np.random.Generator:
        generator = numpy_generator(*parts)
        orders.append(numpy_generator(*parts).permutation(10).tolist())
        return generator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "numpy_generator", watched)
        trained(epochs=3)
    assert [sorted(order) for order in orders] == [list(range(10))] * 3
    assert orders[0] != orders[1] != orders[2]
    whole = {"batch_size": 10, "dropout": 0.5}
    assert not torch.equal(trained(**whole), trained(seed=4, **whole))
    assert torch.equal(trained(**whole), trained(**whole))


def test_features_are_computed_in_evaluation_mode_for_any_batch_size() -> None:
    """For either mode of the model before the call, and for any batch size."""
    head = HeadSettings(kind="projection", dropout=0.5)
    image = ImageTowerSettings(model="test_nfnet", weights="random", train="full", head=head)
    both = build(ModelSettings(image=image, joint_dim=16, text=TextTowerSettings(head=head)), TEXT_DIM, None, 0)
    _, images, texts = split()
    wanted = both.image_features(both.normalise(images)), both.text_features(texts)
    for batch in (3, 4, 10):
        both.train()
        pictures = encode_images(both, images.split(batch))
        both.train()
        found = pictures, encode_texts(both, texts, batch)
        for one, other in zip(found, wanted, strict=True):
            assert not one.requires_grad
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_sees_the_images_once_for_all_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The students and recalls equal those of each rate trained separately."""
    frozen, passed = model("head"), []
    _, images, texts = split()
    validation = retrieval_split(frozen, images, texts, torch.arange(10), 4)
    rates = [0.001, 0.01, 0.1]

    def judge(rates: list[float]) -> Choice:
        settings = EvaluationProtocol(epochs=3, batch_size=5, learning_rates=rates, encode_batch=4)
        return Evaluator(lambda: model("head"), settings, InfoNCE(), seed=3).choose(pairs(), validation)

    alone = [judge([rate]).validation[rate] for rate in rates]
    features = FrozenBackbone.features
    monkeypatch.setattr(FrozenBackbone, "features", lambda self, rows: (passed.append(len(rows)), features(self, rows))[1])
    together = judge(rates)
    assert passed == [10]
    assert [together.validation[rate] for rate in rates] == alone


def test_pairs_in_phases_are_trained_on_one_phase_after_the_other() -> None:
    """Each phase is trained for all epochs, with one optimiser for all phases; compared with a loop of SGD with momentum."""
    phase = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 0, 0])
    settings = EvaluationProtocol(epochs=2, batch_size=10, momentum=0.9, weight_decay=0)
    linear = HeadSettings(kind="linear")
    image = ImageTowerSettings(model="test_nfnet", weights="random", train="head", head=linear)
    described = ModelSettings(image=image, text=TextTowerSettings(head=linear), joint_dim=16)
    student, by_hand = (build(described, TEXT_DIM, None, 0) for _ in range(2))
    rows = {"images": torch.randn(10, student.image_head.in_features), "texts": torch.randn(10, TEXT_DIM), "phase": phase}
    assert train_student(student, TrainingPairs(rows, 10), settings, 0.1, InfoNCE(), seed=3)
    parameters = [parameter for parameter in by_hand.train().parameters() if parameter.requires_grad]
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    for numbers in (phase == 0, phase == 0, phase == 1, phase == 1):
        loss = InfoNCE()(*by_hand(rows["images"][numbers], rows["texts"][numbers]))
        for parameter, momentum, slope in zip(parameters, momenta, torch.autograd.grad(loss, parameters), strict=True):
            momentum.mul_(0.9).add_(slope)
            parameter.data.sub_(0.1 * momentum)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for ours, theirs in zip(trained, parameters, strict=True):
        torch.testing.assert_close(ours, theirs)
