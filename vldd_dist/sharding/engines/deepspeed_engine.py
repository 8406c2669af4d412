"""Creating a DeepSpeed engine."""

import logging
import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from vldd_dist.errors import ConfigError
from vldd_dist.extras import how_to_add

# Limits of `bucket_elements`.
SMALLEST_BUCKET, LARGEST_BUCKET = 1 << 18, 1 << 25


def bucket_elements(parameters: int) -> int:
    """The size in elements of each of the engine's buffers, for a model with this many parameters. DeepSpeed's default of 5e8
    elements would take most of a rank's memory."""
    return min(max(parameters // 16, SMALLEST_BUCKET), LARGEST_BUCKET)


def require_deepspeed() -> None:
    """Raises ConfigError if DeepSpeed is not installed. Does not import it."""
    if find_spec("deepspeed") is None:
        raise ConfigError(f"sharding: zero1 to zero3 needs DeepSpeed: {how_to_add('zero')}, or choose fsdp")


def make_engine(model: nn.Module, optimiser: torch.optim.Optimizer, stage: int) -> Any:
    """An initialised DeepSpeed engine around a model and its optimiser, at a stage 1 to 3 of ZeRO.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """
    require_deepspeed()
    on_gpu = next(model.parameters()).is_cuda
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Imported here, because it probes drivers and compilers, which a student on one rank does not need.
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # All ranks would compile DeepSpeed's shared-memory collective at once on first use, and a killed build leaves a lock.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if on_gpu else "gloo", auto_mpi_discovery=False, verbose=False)
    bucket = bucket_elements(sum(parameter.numel() for parameter in model.parameters()))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": stage == 3,
            # Stage 3 would gather parameters on a stream of its own, which does not wait until they are written.
            "overlap_comm": on_gpu and stage < 3,
            # No parameter may stay gathered between two uses, because parameters are written between passes.
            "stage3_param_persistence_threshold": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_max_live_parameters": 2 * bucket,
            "stage3_prefetch_bucket_size": bucket,
            "reduce_bucket_size": bucket,
        },
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser, config=config)
    return engine
