"""Duration of an evaluation: training a student on 100 pairs, and measuring its recall on a test split of Flickr30K's size."""

from functools import partial

import torch

from benchmarks.gpu.distilling import SEED, new_model
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place, rounding
from benchmarks.gpu.students import TEXT_DIM, image_size, settings_of
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.distillation.initialisations.noise import noise_pairs
from vldd_dist.evaluation.evaluator import TrainingPairs, train_student
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.retrieval.encode import measure, retrieval_split

PAIRS, EPOCHS, IMAGES, CAPTIONS_PER_IMAGE = 100, 5, 1000, 5


def run(place: Place, notes: Notes) -> None:
    """For each student: seconds of one epoch on the pairs and of the recall, and their sum for a hundred epochs."""
    pairs, epochs, count, size = (8, 1, 16, image_size(place)) if place.tiny else (PAIRS, EPOCHS, IMAGES, image_size(place))
    rows = noise_pairs(range(pairs), (3, size, size), torch.zeros(TEXT_DIM), torch.ones(TEXT_DIM), SEED)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    texts = torch.randn(count * CAPTIONS_PER_IMAGE, TEXT_DIM)
    settings = EvaluationProtocol(epochs=epochs)
    for student in ("vit_b_lora",) if place.tiny else ("nfnet_l0", "vit_b", "vit_b_lora"):
        for precision in ("torch",) if place.tiny else ("torch", "tf32"):
            model = new_model(settings_of(student, place), TEXT_DIM, place.device)
            split = retrieval_split(model, images, texts, torch.arange(count).repeat_interleave(CAPTIONS_PER_IMAGE), 128)
            named = {name: tensor.to(place.device) for name, tensor in zip(("images", "texts"), rows, strict=True)}
            training_pairs = TrainingPairs(named, pairs).in_model_inputs(model)
            train = partial(train_student, model, training_pairs, settings, 1e-3, InfoNCE(), SEED)
            with rounding(precision):
                train()
                epoch = place.seconds(train) / epochs
                recall = place.seconds(partial(measure, model, split, settings.encode_batch))
            notes.row(
                student=student,
                precision=precision,
                pairs=pairs,
                epoch_seconds=epoch,
                recall_seconds=recall,
                evaluation_seconds=100 * epoch + recall,
            )
            del model, training_pairs, train
            place.free()
