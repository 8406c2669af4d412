"""What the frozen text encoder takes, by a pass of the same architecture on the "meta" device."""

from functools import partial

import torch

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.cost_model.memory_model import Terms
from vldd_dist.models.live_memory import LiveMemory, fused_attention_on_meta
from vldd_dist.models.text.architecture import find_architecture


def text_encoder_memory(settings: TextTowerSettings, batch_size: int) -> Terms:
    """Its weights in fp32, and a batch of captions of as many tokens as they may have, which the longest ones come near. Of a
    hub's model whose configuration is not to be had here, BERT base is taken.

    Raises:
        ConfigError: the description names no text encoder.
    """
    # Here, so that only plans load transformers.
    import transformers

    found = find_architecture(settings, ask_hub=False)
    tokens, make = settings.max_tokens, partial(transformers.AutoModel.from_config, transformers.BertConfig())
    if found is not None:
        model_class = getattr(transformers, found.pooling.model_class)
        make = partial(getattr(model_class, "from_config", model_class), found.config)
        tokens = (found.pooling.pads_to_positions and found.positions) or tokens
    with torch.device("meta"):
        model, ids = make(), torch.zeros(batch_size, tokens, dtype=torch.int64)
    model.eval().requires_grad_(False).float()
    with torch.no_grad(), fused_attention_on_meta(), LiveMemory() as memory:
        model(input_ids=ids)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return {"text encoder": weights, "activations": memory.peak}
