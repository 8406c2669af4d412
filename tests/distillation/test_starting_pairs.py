"""What initialisations, losses and objectives give a distillation to start from: other tensors than they should are refused."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start, starting_pairs
from vldd_dist.distillation.initialisations.by_modality import ByModality
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.feature_backbone import FeatureBackbone
from vldd_dist.models.losses import Learned, Loss
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.plugins import INITIALISATIONS

IMAGES, TEXTS = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)


class Given(Initialisation):
    """The images and texts that a test gives it."""

    name: str = "given"
    images: ClassVar[Any] = IMAGES
    texts: ClassVar[Any] = TEXTS

    def start(self, context: Any) -> Start:
        return Start(self.images, self.texts, {})


class LearnsMore(InfoNCE):
    """It learns the tensors that a test gives it."""

    rows: ClassVar[dict[str, Any]] = {}
    shared: ClassVar[dict[str, Any]] = {}

    def learned_rows(self, numbers: range, total: int) -> dict[str, Learned]:
        return {name: Learned(start, 0.1) for name, start in self.rows.items()}

    def learned_shared(self) -> dict[str, Learned]:
        return {name: Learned(start, 0.1) for name, start in self.shared.items()}


class Scaled(TrajectoryMatching):
    name: str = "scaled"

    def learned_shared(self) -> dict[str, Learned]:
        return {"log_scale": Learned(torch.tensor(0.0), 0.1)}


def context(
    initialise: Initialisation | None = None, loss: Loss | None = None, objective: TrajectoryMatching | None = None
) -> Any:
    """A distillation of two pairs with images of four pixels, on the first of its ranks."""
    settings = load_experiment("jobs/presets/scenes.yaml", []).distill
    changes = {"initialise": initialise or Given(), "objective": objective or settings.objective}
    return SimpleNamespace(
        settings=settings.model_copy(update=changes),
        loss=loss or LearnsMore(name="learns_more"),
        model=SimpleNamespace(text_dim=5),
        image_shape=(3, 4, 4),
        device="cpu",
        rows=range(2),
        total=4,
    )


def test_right_pairs_are_returned() -> None:
    pairs, _ = starting_pairs(context())
    assert pairs.images is IMAGES
    assert pairs.texts is TEXTS


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        # All pairs on each rank; fewer than M.
        ("images", torch.zeros(4, 3, 4, 4), r"images \(4, 3, 4, 4\) torch.float32: return \(2, 3, 4, 4\) torch.float32, a row"),
        ("images", torch.zeros(1, 3, 4, 4), r"images \(1, 3, 4, 4\)"),
        ("images", torch.zeros(2, 3, 8, 8), r"images \(2, 3, 8, 8\)"),
        ("images", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"images \(2, 3, 4, 4\) torch.uint8: return"),
        ("images", torch.full((2, 3, 4, 4), torch.nan), "images with NaN or infinity"),
        ("texts", torch.zeros(4, 5), r"texts \(4, 5\) torch.float32: return \(2, 5\) torch.float32, a row for each"),
        ("texts", torch.zeros(2, 6), r"texts \(2, 6\)"),
        ("texts", torch.zeros(2, 5).numpy(), r"texts \(2, 5\) float32: return"),
        ("texts", torch.full((2, 5), torch.inf), "texts with NaN or infinity"),
    ],
)
@pytest.mark.parametrize("of_modality", [False, True])
def test_a_start_of_other_pairs_is_refused(
    name: str, given: Any, sentence: str, of_modality: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Given, name, given)
    monkeypatch.setitem(INITIALISATIONS.entries, "given", f"{__name__}:Given")
    initialise = ByModality(images="given", texts="given") if of_modality else Given()  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=f"the initialisation given returned {sentence}"):
        starting_pairs(context(initialise))


def bare_context(**inputs: Any) -> DistillationContext:
    """A context without settings and data."""
    nothing: Any = None
    model = SimpleNamespace(image_backbone=torch.nn.Identity())
    named = {"settings": nothing, "model": model, "loss": InfoNCE(), "embeddings": nothing, "report": lambda event: None}
    return DistillationContext(total=2, seed=0, image_features=None, **named | inputs)


@pytest.mark.parametrize("on_features", [False, True])
def test_the_shape_of_a_synthetic_image(on_features: bool) -> None:
    """A part of the data is distilled in feature space."""
    image = ImageTowerSettings(train="head", head=HeadSettings(kind="linear"))
    model = DualEncoder(FeatureBackbone(7), ModelSettings(image=image, joint_dim=3), 5)
    if not on_features:
        model.image_backbone = torch.nn.Identity()
    made = bare_context(model=model, open_dataset=lambda: SimpleNamespace(image_size=16))
    assert made.image_shape == ((7,) if on_features else (3, 16, 16))


def test_inputs_that_a_context_does_not_have_are_explained() -> None:
    for ask in (lambda: bare_context().open_experts(None), lambda: bare_context().expert_features()):
        with pytest.raises(AssertionError, match="used an input that its `needs` does not name: name it there"):
            ask()
    with pytest.raises(AssertionError, match="a distillation on features in memory has no images"):
        _ = bare_context().dataset


@pytest.mark.parametrize(
    ("rows", "shared", "taken"), [("phase", "bias", "phase"), ("texts", "bias", "texts"), ("weight", "log_rates", "log_rates")]
)
def test_a_loss_may_not_use_the_name_of_another_tensor(
    rows: str, shared: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LearnsMore, "rows", {rows: torch.zeros(2)})
    monkeypatch.setattr(LearnsMore, "shared", {shared: torch.zeros(1)})
    sentence = f"the loss learns_more learns a tensor '{taken}', the name of another one: rename it"
    with pytest.raises(AssertionError, match=sentence):
        starting_pairs(context())


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        ("rows", torch.tensor(0.0), r"of shape \(\): give it the shape \(2, \.\.\.\), a row for each pair"),
        ("rows", torch.zeros(4), r"of shape \(4,\): give it the shape \(2, \.\.\.\)"),
        ("shared", torch.tensor(0.0), r"of shape \(\): give it the shape \(n, \.\.\.\), such as \(1,\) for one number"),
        ("shared", torch.zeros(0, 3), r"of shape \(0, 3\): give it the shape \(n, \.\.\.\)"),
    ],
)
def test_a_learned_tensor_has_a_first_dimension(kind: str, given: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LearnsMore, kind, {"more": given})
    with pytest.raises(AssertionError, match=f"the loss learns_more learns 'more' {sentence}"):
        starting_pairs(context())


def test_so_has_that_of_an_objective() -> None:
    with pytest.raises(AssertionError, match="the objective scaled learns 'log_scale' of shape"):
        starting_pairs(context(objective=Scaled()))
