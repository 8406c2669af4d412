"""Images per second in an expert's training steps; the images are already in the host's memory."""

import torch

from benchmarks.gpu.distilling import new_model
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place, rounding
from benchmarks.gpu.students import TEXT_DIM, image_size, model_flops, settings_of
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import ParameterView
from vldd_dist.sharding.engines.sharded_model import shard_model
from vldd_dist.sharding.ranks import SOLO

BATCH, STEPS = 128, 6


def run(place: Place, notes: Notes) -> None:
    """For each student: copying 8-bit images to the device, normalisation, forward pass, backward pass, SGD with momentum."""
    notes.remark("without decoding and augmentation, which the host does")
    batch = 8 if place.tiny else BATCH
    for student in ("vit_b_lora",) if place.tiny else ("nfnet_l0", "vit_b", "vit_b_lora"):
        settings = settings_of(student, place)
        flops = FlopTrace(MemoryTrace(model_flops(settings), TEXT_DIM, image_size(place))).training
        for precision in ("torch", "bf16") if place.tiny else ("torch", "tf32", "bf16"):
            seconds, peak = _measured(place, settings, batch, precision)
            sheet, rate = place.data_sheet(precision), batch * flops / seconds / 1e12
            notes.row(
                student=student,
                precision=precision,
                batch=batch,
                images_per_second=batch / seconds,
                peak_mib=peak / 2**20,
                tflop_per_second=rate,
                share_of_data_sheet=sheet and rate / sheet,
            )
            place.free()


def _measured(place: Place, settings: ModelSettings, batch: int, precision: str) -> tuple[float, int]:
    """Seconds of a step, and bytes in addition to the model and its momentum."""
    model = new_model(settings, TEXT_DIM, place.device)
    model.train()
    model.bf16_backbone = precision == "bf16"
    optimiser = torch.optim.SGD(ParameterView(model).parameters, lr=1e-3, momentum=0.9)
    expert, loss = shard_model(model, optimiser, "none", SOLO), InfoNCE()
    images = torch.randint(0, 256, (batch, 3, image_size(place), image_size(place)), dtype=torch.uint8)
    texts = torch.randn(batch, TEXT_DIM)

    def step() -> None:
        inputs = model.normalise(images.to(place.device))
        expert.step(loss(*expert(inputs, texts.to(place.device))))

    steps = 1 if place.tiny else STEPS

    def several() -> None:
        for _ in range(steps):
            step()

    with rounding(precision):
        step()
        return place.seconds(several) / steps, place.peak_bytes(step)
