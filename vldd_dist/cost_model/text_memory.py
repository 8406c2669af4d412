"""The memory of the frozen text encoder, measured by a pass of the same architecture on the meta device."""

from functools import partial

import torch

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.errors import ConfigError, message_of
from vldd_dist.models import libraries
from vldd_dist.models.live_memory import LiveMemory, fused_attention_on_meta
from vldd_dist.models.text.architecture import find_architecture


def text_encoder_memory(settings: TextTowerSettings, batch_size: int) -> Terms:
    """The weights in fp32, and the peak of a batch of captions with the largest allowed number of tokens, which the longest
    captions nearly reach. If the configuration of a hub's model is not available here, BERT base is assumed.

    Raises:
        ConfigError: the description names no text encoder, or a pass of it cannot be traced.
    """
    transformers = libraries.transformers()
    architecture = find_architecture(settings, ask_hub=False)
    tokens, make = settings.max_tokens, partial(transformers.AutoModel.from_config, transformers.BertConfig())
    if architecture is not None:
        model_class = getattr(transformers, architecture.pooling.model_class)
        make = partial(getattr(model_class, "from_config", model_class), architecture.config)
        tokens = (architecture.pooling.pads_to_positions and architecture.positions) or tokens
    try:
        with torch.device("meta"):
            model, ids = make(), torch.zeros(batch_size, tokens, dtype=torch.int64)
        model.eval().requires_grad_(False).float()
        with torch.no_grad(), fused_attention_on_meta(), LiveMemory() as memory:
            model(input_ids=ids)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model.text.model: a pass of {settings.model} cannot be traced ({message_of(error)}), so its memory is not "
            "estimated"
        ) from error
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return {"text encoder": weights, "activations": memory.peak}
