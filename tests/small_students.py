"""Students with a small image tower, a split and pairs for them, and their evaluator."""

import torch

from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings
from vldd_dist.evaluation.evaluator import Evaluator, TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.retrieval.encode import RetrievalSplit, retrieval_split

TEXT_DIM = 12


def model(train: str = "full") -> DualEncoder:
    head = HeadSettings(kind="linear") if train == "head" else HeadSettings(kind="none")
    # NFNets have no linear layers for adapters.
    backbone = {"model": "test_vit", "model_args": {"img_size": 32}} if train == "lora" else {"model": "test_nfnet"}
    image = ImageTowerSettings.model_validate({**backbone, "weights": "random", "train": train, "head": head})
    return build(ModelSettings(image=image, joint_dim=16 if train == "head" else None), TEXT_DIM, None, 0)


def split(pictures: int = 10, seed: int = 0) -> tuple[RetrievalSplit, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (pictures, 3, 32, 32), generator=generator, dtype=torch.uint8)
    texts = torch.randn(pictures, TEXT_DIM, generator=generator)
    return retrieval_split(model(), images, texts, torch.arange(pictures), 4), images, texts


def evaluator(rates: list[float], epochs: int = 10) -> Evaluator:
    settings = EvaluationProtocol(epochs=epochs, batch_size=5, learning_rates=rates, encode_batch=4)
    return Evaluator(model, settings, InfoNCE(), seed=3)


def pairs() -> TrainingPairs:
    _, images, texts = split()
    return TrainingPairs({"images": model().normalise(images), "texts": texts}, len(images))
