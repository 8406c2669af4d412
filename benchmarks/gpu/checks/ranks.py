"""Two ranks compute the same gradient as one process: on one device with gloo, on two GPUs with NCCL."""

import multiprocessing
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu.distilling import distillation_settings, distilling, new_model
from benchmarks.gpu.notes import Notes
from benchmarks.gpu.place import Place, rounding
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.sharding.rendezvous import Rendezvous, join, open_rendezvous
from vldd_dist.store.store import Store

SIZE, TEXT_DIM, WORLD = 32, 16, 2
# Not a multiple of the ranks.
PAIRS = 5
# Limits of the relative l2 error compared with one process. The error comes from the order of sums in fp32.
LIMITS = {"exact": 1e-4, "finite_difference": 1e-2}
WAIT = timedelta(seconds=30)


def run(place: Place, notes: Notes) -> None:
    """Each gradient with gloo, and with NCCL if there are two GPUs."""
    backends = ["gloo"]
    if place.on_gpu and torch.cuda.device_count() >= WORLD:
        backends.append("nccl")
    else:
        notes.remark("NCCL is not checked, because it needs two GPUs")
    alone = {gradient: _gradient(SOLO, place.device, gradient) for gradient in LIMITS}
    for backend in backends:
        parts = _on_ranks(backend, place.device)
        for gradient, limit in LIMITS.items():
            for name, expected in alone[gradient].items():
                actual = torch.cat([part[f"{gradient}/{name}"] for part in parts])
                notes.check(f"{backend}: {gradient}, {name}", float((actual - expected).norm() / expected.norm()), limit)


def _gradient(ranks: Ranks, device: torch.device, gradient: str) -> dict[str, Tensor]:
    """The gradient of this rank's rows at the first outer step."""
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    image = ImageTowerSettings(model="test_vit", model_args={"img_size": SIZE}, weights="random")
    model = new_model(ModelSettings(image=image, text=text), TEXT_DIM, device)
    settings = distillation_settings(
        SIZE, TEXT_DIM, objective={"inner_steps": 2, "gradient": gradient}, workers=ranks.world_size
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        rounding("fp32"),
        distilling(model, settings, PAIRS, Store(folder), ranks=ranks) as run,
    ):
        gradients = run.problem.gradient(0, run.pairs).row_gradients
    return {name: value.cpu() for name, value in gradients.items()}


def _on_ranks(backend: str, device: torch.device) -> list[dict[str, Tensor]]:
    # Forked from the same process as the parts, which has imported everything.
    context = multiprocessing.get_context("forkserver")
    meeting, server = open_rendezvous("127.0.0.1", WORLD)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{rank}.safetensors") for rank in range(WORLD)]
        processes = [
            context.Process(target=_rank, args=(meeting, rank, backend, device.type, file)) for rank, file in enumerate(files)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        del server
        if any(process.exitcode for process in processes):
            raise RuntimeError(
                f"{backend}: the ranks ended with {[process.exitcode for process in processes]}; the log has the reason"
            )
        return [tensors.decode(file.read_bytes(), file.name) for file in files]


def _rank(meeting: Rendezvous, rank: int, backend: str, device_type: str, file: Path) -> None:
    if device_type == "cpu":
        torch.set_num_threads(1)
    device = torch.device(device_type)
    if backend == "nccl":
        # Each rank sees only its own GPU. This must be set before CUDA is initialised.
        os.environ["CUDA_VISIBLE_DEVICES"] = str(rank)
        ranks = join(meeting, rank, WORLD, device=device, timeout=WAIT)
    else:
        # Not `join`, which uses NCCL on GPUs: NCCL refuses two ranks on one GPU.
        store = dist.TCPStore(meeting.host, meeting.port, WORLD, is_master=False, timeout=WAIT)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=WAIT)
        ranks = Ranks(rank, WORLD)
    gradients: dict[str, Tensor] = {}
    for gradient in LIMITS:
        gradients |= {f"{gradient}/{name}": value for name, value in _gradient(ranks, device, gradient).items()}
    file.write_bytes(tensors.encode(gradients))
    dist.destroy_process_group()
