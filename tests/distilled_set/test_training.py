"""Training on a set by its recipe: with any two modules, and with the same results as in the tables."""

import copy

import pytest
import torch
from torch import nn

from tests.distilled_sets import RECIPE, distilled_set, with_similarity
from tests.small_students import TEXT_DIM, model
from vldd_dist import DistilledSet, train_on
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.distilled_set.manifest import NearestCaptions, Recipe
from vldd_dist.errors import DivergenceError
from vldd_dist.evaluation.evaluator import TrainingPairs, train_student
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import model_inputs
from vldd_dist.pipeline.stages.publication import most_chosen
from vldd_dist.training_loop import PHASE


def of_two_phases() -> DistilledSet:
    generator = torch.Generator().manual_seed(1)
    rows = {
        "images": torch.randn(9, 3, 32, 32, generator=generator),
        "texts": torch.randn(9, TEXT_DIM, generator=generator),
        "phase": torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0]),
    }
    recipe = RECIPE.model_copy(update={"batch_size": 2, "loss": {"name": "infonce", "lr_temperature": 0.1}})
    shared = {"log_temperature": torch.tensor([-1.5])}
    return DistilledSet(rows, recipe, [NearestCaptions(before="a", after="b", similarity=0.5)] * 9, shared)


class ImageSide(nn.Module):
    def __init__(self, student: DualEncoder) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.student.image_features(inputs)


@pytest.mark.parametrize("train", ["full", "lora", "head"])
def test_train_on_gives_the_same_bits_as_the_evaluation(train: str) -> None:
    """Bit-identical results, for pairs in phases with a learned temperature, and for a frozen backbone on its features."""
    distilled, evaluated = of_two_phases(), model(train)
    given = copy.deepcopy(evaluated)
    pairs = TrainingPairs(distilled.rows, 9, shared=distilled.shared).in_model_inputs(evaluated)
    recipe = distilled.recipe
    settings = EvaluationProtocol.model_validate(
        recipe.model_dump(include={"epochs", "batch_size", "momentum", "weight_decay"})
    )
    assert train_student(evaluated, pairs, settings, recipe.learning_rate, distilled.loss, seed=4)
    inputs = model_inputs(given, distilled.images) if train == "head" else None
    if train == "head":
        given.image_backbone.requires_grad_(False)
    losses = train_on(distilled, ImageSide(given), given.text_head, inputs=inputs, seed=4)
    assert len(losses) == 2 * recipe.epochs
    for name, value in evaluated.state_dict().items():
        assert torch.equal(value, given.state_dict()[name]), name


def small_towers() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    image_tower = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.LazyLinear(16))
    return image_tower, nn.Linear(8, 16)


def test_any_modules_learn_with_the_similarity_of_the_set() -> None:
    distilled = with_similarity({"kind": "full"})
    image_tower, text_tower = small_towers()
    statistics = copy.deepcopy(image_tower[1].running_mean)
    losses = train_on(distilled, image_tower, text_tower, learning_rate=0.05, epochs=20)
    assert losses[-1] < losses[0] / 2
    assert torch.equal(image_tower[1].running_mean, statistics)
    assert not image_tower.training
    state = torch.random.get_rng_state()
    train_on(distilled, image_tower, text_tower, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    # Another similarity gives another loss.
    distilled.rows["similarity"] = 1 - distilled.rows["similarity"]
    assert train_on(distilled, *small_towers(), learning_rate=0.05, epochs=20) != losses


def test_gradients_of_an_earlier_training_are_not_used() -> None:
    distilled, towers = distilled_set(), small_towers()
    train_on(distilled, *towers, epochs=1)
    others = copy.deepcopy(towers)
    for tower, inputs in zip(towers, (distilled.images, distilled.texts), strict=True):
        tower(inputs).sum().backward()
    assert train_on(distilled, *towers, epochs=2) == train_on(distilled, *others, epochs=2)


def test_unsuitable_arguments_of_train_on_are_one_sentence_errors() -> None:
    image_tower, text_tower = small_towers()
    with pytest.raises(DivergenceError, match=r"at learning rate 1e\+30: give a lower learning_rate"):
        train_on(distilled_set(), image_tower, text_tower, learning_rate=1e30)
    with pytest.raises(ValueError, match="inputs has 4 rows for 5 pairs"):
        train_on(distilled_set(), image_tower, text_tower, inputs=torch.zeros(4, 8))
    with pytest.raises(ValueError, match="there is nothing to train"):
        train_on(distilled_set(), nn.Flatten(), nn.Identity())
    for epochs in (0, 1.5):
        with pytest.raises(ValueError, match=f"epochs is {epochs}: give a positive whole number"):
            train_on(distilled_set(), image_tower, text_tower, epochs=epochs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inputs is ndarray: give a tensor"):
        train_on(distilled_set(), image_tower, text_tower, inputs=torch.zeros(5, 8).numpy())  # type: ignore[arg-type]
    for pairs in (0, 1):
        with pytest.raises(ValueError, match=f"the set has {pairs} of the two pairs that a contrastive loss needs to compare"):
            train_on(distilled_set(pairs), image_tower, text_tower)
    phased = distilled_set(3)
    phased.rows[PHASE] = torch.tensor([0, 0, 1])
    with pytest.raises(ValueError, match="a phase of the set has 1 of the two pairs"):
        train_on(phased, image_tower, text_tower)
    with pytest.raises(ValueError, match="learns nothing from one"):
        Recipe.model_validate(RECIPE.model_dump() | {"batch_size": 1})


class Pooled(nn.Module):
    """A tower that returns one value of several, as models of transformers do."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pooler_output": self.tower(inputs)}


@pytest.mark.parametrize(
    ("text_tower", "sentence"),
    [
        (nn.Linear(9, 16), r"text_tower does not take inputs of float32 of shape \(\d, 8\) on cpu: mat1 and mat2 shapes"),
        (nn.Sequential(nn.Linear(9, 16), nn.LazyLinear(16)), "text_tower does not take inputs of float32"),
        (nn.Linear(8, 16).double(), "text_tower does not take inputs of float32"),
        (nn.Linear(8, 16, device="meta"), "text_tower does not take inputs of float32"),
        (nn.Linear(8, 4), "image_tower returns 16 features and text_tower 4: give towers with the same number of features"),
        (Pooled(nn.Linear(8, 16)), "text_tower returns dict for inputs of float32 .* give a module that returns a tensor"),
        # Without the check, the loss would take this for one feature of eight images.
        (nn.Sequential(nn.Linear(8, 16), nn.Unflatten(1, (1, 16))), r"text_tower returns \(\d, 1, 16\) .* one that returns"),
    ],
)
def test_towers_that_do_not_suit_the_set_are_named(text_tower: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        train_on(distilled_set(), small_towers()[0], text_tower)


class Failing(nn.Linear):
    def __init__(self, sentence: str) -> None:
        super().__init__(8, 16)
        self.sentence = sentence

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(self.sentence)


@pytest.mark.parametrize("sentence", ["DefaultCPUAllocator: can't allocate memory", "CUDA error: device-side assert triggered"])
def test_faults_of_the_machine_are_not_blamed_on_a_tower(sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        train_on(distilled_set(), small_towers()[0], Failing(sentence))


@pytest.mark.parametrize(("rates", "chosen"), [([0.1, 0.3, 0.3], 0.3), ([0.3, 0.1, 0.1, 0.2], 0.1), ([0.3, 0.1], 0.1)])
def test_the_recipe_has_the_rate_that_most_seeds_chose(rates: list[float], chosen: float) -> None:
    assert most_chosen(rates) == chosen
