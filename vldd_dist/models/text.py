"""The frozen text encoder: from captions to embeddings."""

import torch
from torch import Tensor, nn

from vldd_dist.config.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.events import Progress, Report
from vldd_dist.models import _torchvision  # noqa: F401  (before transformers)
from vldd_dist.models.identity import text_folder, text_identity


class FrozenTextEncoder:
    """A transformers encoder in evaluation mode; one vector for each caption.
    Raises:
        ConfigError: the model cannot be loaded.
    """

    def __init__(self, settings: TextTowerSettings, device: torch.device) -> None:
        # Imported here, so that workers that only train do not load transformers.
        from transformers import AutoModel, AutoTokenizer

        self.settings, self.device = settings, device
        self.identity = text_identity(settings)
        source = str(text_folder(settings) or settings.model)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source, revision=settings.revision)
            self.model: nn.Module = AutoModel.from_pretrained(source, revision=settings.revision, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"model.text.model: {settings.model} cannot be loaded ({' '.join(str(error).split())[:160]}): "
                "name a folder, a hub id that can be reached, or minilm"
            ) from None
        # In fp32, whatever the file holds: in half precision an embedding would depend on its batch and the device.
        self.model.to(device, torch.float32).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, captions: list[str], batch_size: int, report: Report = lambda event: None) -> Tensor:
        """Embeddings (n, D) float32 on the CPU. Captions are batched by length to reduce padding. Padding is masked, so an
        embedding depends on its batch only in the last bits of fp32."""
        if not captions:
            # The size of a token's state is that of the pooled vector.
            return torch.empty(0, int(self.model.config.hidden_size))  # type: ignore[union-attr, arg-type]
        order = sorted(range(len(captions)), key=lambda index: (len(captions[index]), captions[index]))
        vectors: list[Tensor] = [torch.empty(0)] * len(captions)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            for index, vector in zip(chosen, self._encode([captions[i] for i in chosen]), strict=True):
                vectors[index] = vector
            report(Progress(first + len(chosen), len(captions)))
        return torch.stack(vectors)

    def _encode(self, captions: list[str]) -> Tensor:
        settings = self.settings
        tokens = self.tokenizer(
            captions, padding=True, truncation=True, max_length=settings.max_tokens, return_tensors="pt"
        ).to(self.device)
        states = self.model(**tokens).last_hidden_state
        if settings.pooling == "cls":
            vectors = states[:, 0]
        else:
            mask = tokens["attention_mask"][..., None].float()
            vectors = (states * mask).sum(dim=1) / mask.sum(dim=1)
        if settings.scale == "sqrt_dim":
            vectors = nn.functional.normalize(vectors) * vectors.shape[1] ** 0.5
        return vectors.cpu()
