"""One function a kind of unit: what the workspace's inputs become."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.row_files import row_file_name
from vldd_dist.artifacts.snapshot_cache import SnapshotCache
from vldd_dist.artifacts.trajectories import Trajectory
from vldd_dist.artifacts.units import is_done
from vldd_dist.config.data import DataSettings
from vldd_dist.config.distillation import DistillSettings
from vldd_dist.config.evaluation import EvaluationSettings
from vldd_dist.config.experts import ExpertSettings
from vldd_dist.config.model import TextTowerSettings
from vldd_dist.config.starting_weights import PretrainSettings
from vldd_dist.coresets import Candidates, select
from vldd_dist.data.embeddings import CaptionEmbeddings
from vldd_dist.data.images import decode, to_tensor
from vldd_dist.data.prepare import prepare_dataset
from vldd_dist.distillation.experts import ExpertAwaited, Experts
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import (
    SyntheticPairs,
    kmeans_indices,
    random_indices,
    start_from_noise,
    start_from_real,
)
from vldd_dist.distillation.sampling import inner_batch_size
from vldd_dist.distillation.unrolling import make_unrolling, shelf_for
from vldd_dist.evaluation.evaluator import Judge, TrainingPairs
from vldd_dist.experts.pretraining import pretrain_on_attributes
from vldd_dist.experts.train import ExpertInputs, ExpertTraining
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image import create_backbone, refuse_backbone_dropout
from vldd_dist.models.parameters import ParameterView
from vldd_dist.models.text import FrozenTextEncoder
from vldd_dist.pipeline.context import Runner, StageContext, read_rows, read_tensors
from vldd_dist.pipeline.graph import DISTILL_EXECUTION, EXPERT_EXECUTION
from vldd_dist.pipeline.outcome import InputAwaited
from vldd_dist.pipeline.publish import publish
from vldd_dist.retrieval.encode import RetrievalSplit, encode_images, encode_texts, measure, retrieval_split
from vldd_dist.seeding import derive_seed, numpy_generator


def dataset(context: StageContext) -> dict[str, Any]:
    settings = DataSettings.model_validate(context.execution["settings"])
    return prepare_dataset(settings, context.execution["seed"], context.writer, context.report)


def image_weights(context: StageContext) -> dict[str, Any]:
    """The image tower's starting weights, in the store once, so that no worker needs a hub or the user's disk."""
    spec = context.spec
    if "attributes" in spec:
        weights = pretrain_on_attributes(
            create_backbone(spec["model"], spec["model_args"], pretrained=False, seed=spec["seed"]),
            PretrainSettings.model_validate(spec["attributes"]),
            image_size=spec["image_size"],
            mean=torch.tensor(spec["mean"]),
            std=torch.tensor(spec["std"]),
            seed=spec["seed"],
            device=context.device,
            report=context.report,
        )
    elif context.execution["weights"] == "timm":
        weights = create_backbone(spec["model"], spec["model_args"], pretrained=True, seed=0).state_dict()
    else:
        weights = tensors.read_file(context.execution["weights"])
    context.writer.put("weights.safetensors", tensors.encode(weights))
    return {"tensors": len(weights)}


def caption_embeddings(context: StageContext) -> dict[str, Any]:
    encoder = FrozenTextEncoder(TextTowerSettings.model_validate(context.execution["text"]), context.device)
    captions = context.dataset.all_captions()
    vectors = encoder.encode(captions, context.execution["batch_size"], context.report)
    for name, data in CaptionEmbeddings(captions, vectors).encode().items():
        context.writer.put(name, data)
    return {"captions": len(captions), "dim": vectors.shape[1], "encoder": encoder.identity}


def expert(context: StageContext) -> dict[str, Any]:
    spec = context.spec
    model = context.build_model(derive_seed(spec["seed"], "expert", spec["index"], "head"))
    if context.ranks.world_size > 1:
        refuse_backbone_dropout(model)
    temperature, validation = context.model_settings.temperature, _retrieval(context, model, "val")
    inputs = ExpertInputs(model, context.dataset, context.embeddings, validation, temperature, context.device, context.ranks)
    settings = ExpertSettings.model_validate(spec["training"] | {key: context.execution[key] for key in EXPERT_EXECUTION})
    return ExpertTraining(
        inputs,
        settings,
        seed=spec["seed"],
        index=spec["index"],
        kept_epochs=spec["kept_epochs"],
        encode_batch=context.execution["encode_batch"],
        writer=context.writer,
        report=context.report,
    ).run()


def features(context: StageContext) -> dict[str, Any]:
    """Joint features of every training picture and one of its captions, by a trained expert, and which caption that is: pairs
    that are selected by them are selected with it."""
    model = _trained_expert(context)
    captions = context.dataset.captions("train")
    drawn = _drawn_captions(captions, list(range(len(captions))), context.spec["seed"])
    size = context.execution["encode_batch"]
    image = encode_images(model, _decoded_batches(context, size))
    chosen = [given[number] for given, number in zip(captions, drawn, strict=True)]
    text = encode_texts(model, context.embeddings.lookup(chosen), size)
    context.writer.put("features.safetensors", tensors.encode({"image": image, "text": text, "caption": torch.tensor(drawn)}))
    return {"images": len(image), "dim": image.shape[1]}


def _decoded_batches(context: StageContext, size: int) -> Iterator[Tensor]:
    pictures = context.dataset.iterate("train")
    while batch := list(islice(pictures, size)):
        yield torch.stack([to_tensor(decode(picture.data, picture.key)) for picture in batch])


def coreset(context: StageContext) -> dict[str, Any]:
    spec = context.spec
    generator = numpy_generator(spec["seed"], "coreset", spec["method"], spec["pairs"])
    candidates = _candidates(context)
    indices = select(spec["method"], candidates, spec["pairs"], generator).tolist()
    images, captions, keys = _real_pairs(context, indices, _captions_of(candidates, indices), spec["seed"])
    context.writer.put("pairs.safetensors", tensors.encode({"images": images}))
    return {"keys": keys, "captions": captions}


def _captions_of(candidates: Candidates, indices: list[int]) -> list[int] | None:
    """Which caption of each picture it was selected by; none where captions played no part."""
    return None if candidates.caption is None else candidates.caption[indices].tolist()


def _candidates(context: StageContext) -> Candidates:
    joint = read_tensors(context.reader("features"), "features.safetensors") if "features" in context.order.inputs else {}
    counts = read_tensors(context.reader("expert"), "forgetting.safetensors") if "expert" in context.order.inputs else {}
    return Candidates(
        context.dataset.splits["train"].images,
        joint.get("image"),
        joint.get("text"),
        counts.get("events"),
        counts.get("ever"),
        joint.get("caption"),
    )


def distillation(context: StageContext) -> dict[str, Any]:
    spec, ranks, total = context.spec, context.ranks, context.spec["pairs"]
    settings = DistillSettings.model_validate(
        spec["settings"]
        | {"pairs": [total], "seeds": [spec["seed"]]}
        | {key: context.execution[key] for key in DISTILL_EXECUTION}
    )
    model = context.build_model(derive_seed(spec["seed"], "student"))
    if ranks.world_size > 1 and settings.dropout:
        refuse_backbone_dropout(model)
    judge = _judge(context, spec["validation"], derive_seed(spec["seed"], "validation"))
    validation = _retrieval(context, model, "val")

    def validate(pairs: SyntheticPairs) -> float:
        return judge.choose(TrainingPairs(pairs.images, pairs.texts, total, ranks), validation).recall.mean

    pairs = _starting_pairs(context, settings, model)
    start = {"images": pairs.images.clone(), "texts": pairs.texts.clone()}
    with shelf_for(settings.offload_snapshots) as shelf:
        unrolling = make_unrolling(
            model, context.model_settings.temperature, settings, shelf, ranks, inner_batch_size(settings, total)
        )
        cache, roles = SnapshotCache(), context.roles("expert_")

        def open_expert(index: int) -> Trajectory:
            return Trajectory(context.reader(roles[index]), cache, unrolling.part)

        run = Distillation(
            unrolling,
            pairs,
            total,
            Experts(len(roles), open_expert, lambda index: is_done(context.store, *context.order.inputs[roles[index]])),
            settings,
            seed=derive_seed(spec["seed"], "distillation", total),
            validate=validate,
            writer=context.writer,
            report=context.report,
            ranks=ranks,
            should_stop=context.should_stop,
        )
        try:
            facts = run.run()
        except ExpertAwaited as wait:
            raise InputAwaited(roles[wait.index]) from None
    for name, rows in (("pairs", {"images": run.best.images, "texts": run.best.texts}), ("start", start)):
        context.writer.put(row_file_name(name, ranks.rank, ranks.world_size), tensors.encode(rows))
    if ranks.is_main:
        context.writer.put("rates.safetensors", tensors.encode({"log_rates": run.best.log_rates}))
        context.writer.put("curves.safetensors", tensors.encode(run.history.as_tensors()))
    return facts


def _starting_pairs(context: StageContext, settings: DistillSettings, model: DualEncoder) -> SyntheticPairs:
    """This rank's rows."""
    count, seed, ranks = context.spec["pairs"], context.spec["seed"], context.ranks
    rows = range(*ranks.rows(count))
    if settings.initialise == "noise":
        size = context.dataset.image_size
        return start_from_noise(rows, (3, size, size), context.training_embeddings.vectors, settings, seed, context.device)
    drawn: list[int] | None = None
    if settings.initialise == "kmeans":
        # Of one rank, for it may end otherwise on another kind of machine.
        indices, drawn = ranks.broadcast(_kmeans_pairs(_candidates(context), count, seed) if ranks.is_main else ([], None))
    else:
        indices = random_indices(context.dataset.splits["train"].images, count, seed)
    own = slice(rows.start, rows.stop)
    images, captions, keys = _real_pairs(context, indices[own], drawn and drawn[own], seed)
    texts = context.embeddings.lookup(captions).to(context.device)
    all_captions, all_keys = ([one for given in ranks.all_gather(part) for one in given] for part in (captions, keys))
    return start_from_real(model.normalise(images.to(context.device)), texts, settings, all_keys, all_captions)


def _kmeans_pairs(candidates: Candidates, count: int, seed: int) -> tuple[list[int], list[int] | None]:
    """Pictures, and which caption of each."""
    indices = kmeans_indices(candidates.joint(), count, seed)
    return indices, _captions_of(candidates, indices)


def evaluation(context: StageContext) -> dict[str, Any]:
    """Test recall of a trained expert, or of a student trained on pairs: the test split is measured once, at the end."""
    batch = context.execution["encode_batch"]
    if "expert" in context.order.inputs:
        expert = _trained_expert(context)
        return {"test": measure(expert, _retrieval(context, expert, "test"), batch).as_dict()}
    model = context.build_model(0)
    choice = _judge(context, context.spec["protocol"], context.spec["seed"]).choose(
        _judged_pairs(context, model), _retrieval(context, model, "val")
    )
    return {
        "learning_rate": choice.learning_rate,
        "validation": [[rate, recall.as_dict()] for rate, recall in choice.validation.items()],
        "test": measure(choice.student, _retrieval(context, model, "test"), batch).as_dict(),
    }


def _judge(context: StageContext, protocol: dict[str, Any], seed: int) -> Judge:
    settings = EvaluationSettings.model_validate(protocol | {"encode_batch": context.execution["encode_batch"]})
    return Judge(lambda: context.build_model(derive_seed(seed, "head")), settings, context.model_settings.temperature, seed)


def _retrieval(context: StageContext, model: DualEncoder, split: str) -> RetrievalSplit:
    loaded = context.dataset.load(split)
    texts = context.embeddings.lookup([caption for captions in loaded.captions for caption in captions])
    return retrieval_split(model, loaded.images, texts, loaded.captions, context.execution["encode_batch"])


def _judged_pairs(context: StageContext, model: DualEncoder) -> TrainingPairs:
    """Synthetic pairs as they are; a coreset's pictures as the image tower wants them, its captions embedded."""
    reader = context.reader("pairs")
    pairs = read_rows(reader, "pairs")
    images, texts = pairs["images"].to(context.device), pairs.get("texts")
    if texts is None:
        images, texts = model.normalise(images), context.embeddings.lookup(reader.facts["captions"])
    return TrainingPairs(images, texts.to(context.device), len(images))


def _trained_expert(context: StageContext) -> DualEncoder:
    trajectory = Trajectory(context.reader("expert"), SnapshotCache())
    model = context.build_model(0)
    view = ParameterView(model)
    last = trajectory.epochs[-1]
    view.write(view.from_dicts(trajectory.snapshot(last, "image"), trajectory.snapshot(last, "text")))
    return model


def _real_pairs(
    context: StageContext, indices: list[int], numbers: list[int] | None, seed: int
) -> tuple[Tensor, list[str], list[str]]:
    """Pictures (M, 3, H, W) uint8, one caption each, and keys of training pictures; `numbers` says which captions, none: they
    are drawn."""
    picked, captions = context.dataset.pick("train", indices), context.dataset.captions("train")
    numbers = _drawn_captions(captions, indices, seed) if numbers is None else numbers
    return picked.images, [captions[index][number] for index, number in zip(indices, numbers, strict=True)], picked.keys


def _drawn_captions(captions: list[list[str]], indices: list[int], seed: int) -> list[int]:
    """For each of the pictures the number of one of its captions; a picture's draw depends on nothing else."""
    return [int(numpy_generator(seed, "caption", index).integers(len(captions[index]))) for index in indices]


RUNNERS: dict[str, Runner] = {
    "dataset": dataset,
    "image_weights": image_weights,
    "caption_embeddings": caption_embeddings,
    "expert": expert,
    "features": features,
    "coreset": coreset,
    "distillation": distillation,
    "evaluation": evaluation,
    "publication": publish,
}
