"""The frozen text encoder: from captions to embeddings."""

from typing import Any

import torch
from torch import Tensor, nn

from vldd_dist.config.sections.model import TextTowerSettings
from vldd_dist.errors import ConfigError
from vldd_dist.events import Progress, SendReport
from vldd_dist.models import libraries
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.architecture import (
    WITHOUT_HUB,
    TextArchitecture,
    cannot_be_loaded,
    find_snapshot,
    fit_architecture,
    read_config,
)
from vldd_dist.models.text.hub_files import hub_files
from vldd_dist.models.text.identity import text_folder, text_identity
from vldd_dist.models.text.tokens import count_tokens, load_tokenizer
from vldd_dist.store.user_files.reachability import reaching


class FrozenTextEncoder:
    """A transformers text model in evaluation mode; one vector for each caption.

    Args:
        commit: of a model on a hub; None: the one that `settings.revision` means at the moment.

    Attributes:
        identity: that of the settings and, for a model on a hub, its commit.
        files: of a model on a hub, name -> sha256 of the files that it was read from, as `hub_files` says.

    Raises:
        ConfigError: the model cannot be loaded, lacks weights or a padding token, or is not for the pooling or the number of
            tokens.
        StoreError: the hub with the model cannot be reached at the moment.
    """

    def __init__(self, settings: TextTowerSettings, device: torch.device, commit: str | None = None) -> None:
        # Comes with transformers.
        from huggingface_hub import ResolvedRevision

        self.settings, self.device = settings, device
        self.identity = text_identity(settings)
        if snapshot := find_snapshot(settings if commit is None else settings.model_copy(update={"revision": commit})):
            # A branch may move between two requests, and between two units. This is read from the commit, and is a text that
            # equals the revision: only for main does transformers look for safetensors in the pull request of a conversion.
            revision = ResolvedRevision(snapshot.name, settings.revision, settings.model)
            settings = settings.model_copy(update={"revision": revision})
            self.identity |= {"commit": snapshot.name}
        self.architecture = architecture = fit_architecture(settings, read_config(settings, ask_hub=True))
        if settings.model == tiny_clip.NAME:
            self.tokenizer = load_tokenizer(settings, ask_hub=False)
            self.model = tiny_clip.load(architecture.pooling.model_class)
        else:
            self.tokenizer, self.model = _load(settings, architecture)
        if self.tokenizer.pad_token_id is None:
            raise ConfigError(
                f"model.text.model: the tokenizer of {settings.model} has no padding token: give the folder one that has"
            )
        # Poolings and position numbers count from the first token.
        self.tokenizer.padding_side = "right"
        _check_end_of_text(settings, architecture.config, self.tokenizer)
        # In fp32 even if the file is in half precision, in which an embedding would depend on its batch and the device.
        self.model.to(device, torch.float32).eval().requires_grad_(False)
        self.files = hub_files(snapshot, self.tokenizer, self.model) if snapshot else {}

    @torch.no_grad()
    def encode(self, captions: list[str], batch_size: int, report: SendReport = lambda event: None) -> Tensor:
        """Embeddings (n, D) float32 on the CPU, which a tower can be trained on. Captions are batched by length to reduce
        padding. Padding does not change an embedding, which depends on its batch only in the last bits of fp32."""
        vectors = torch.empty(len(captions), self.architecture.dim)
        order = sorted(range(len(captions)), key=lambda index: (len(captions[index]), captions[index]))
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            vectors[chosen] = self._encode([captions[i] for i in chosen])
            report(Progress(first + len(chosen), len(captions)))
        return vectors

    def are_cut(self, captions: list[str]) -> list[bool]:
        """Whether each caption has more tokens than `max_tokens`, so that `encode` leaves out its end."""
        return [count > self.settings.max_tokens for count in count_tokens(self.tokenizer, captions)]

    def _encode(self, captions: list[str]) -> Tensor:
        settings, pooling = self.settings, self.architecture.pooling
        tokens = self.tokenizer(
            captions,
            padding=True,
            truncation=True,
            max_length=settings.max_tokens,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)
        mask = tokens["attention_mask"]
        if pooling.pads_to_positions:
            ids, positions = tokens["input_ids"], self.architecture.positions
            tokens = {"input_ids": nn.functional.pad(ids, (0, positions - ids.shape[1]), value=self.tokenizer.pad_token_id)}
        vectors = pooling.vectors(self.model(**tokens), mask)
        if settings.scale == "sqrt_dim":
            vectors = nn.functional.normalize(vectors) * vectors.shape[1] ** 0.5
        return vectors.cpu()


def _load(settings: TextTowerSettings, architecture: TextArchitecture) -> tuple[Any, nn.Module]:
    """Tokenizer and model; of a whole CLIP or SigLIP model only the text part."""
    transformers = libraries.transformers()
    source = str(text_folder(settings) or settings.model)
    model_class = getattr(transformers, architecture.pooling.model_class)
    level = transformers.logging.get_verbosity()
    # transformers would print a table of missing and unused weights. Missing ones are an error below; the image part is unused.
    transformers.logging.set_verbosity_error()
    try:
        with reaching(f"model.text.model: {settings.model}", WITHOUT_HUB):
            tokenizer = load_tokenizer(settings, ask_hub=True)
            model, loading = model_class.from_pretrained(
                source,
                config=architecture.config,
                revision=settings.revision,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_be_loaded(settings, error) from None
    finally:
        transformers.logging.set_verbosity(level)
    # BERT's own pooler is not used, and many encoders are published without it. Any other missing weight would be random.
    if missing := sorted(key for key in loading["missing_keys"] if not key.startswith("pooler.")):
        raise ConfigError(
            f"model.text.model: {settings.model} lacks {missing[0]} (one of {len(missing)} missing), which "
            f"model.text.pooling: {settings.pooling} needs: name another model or pooling"
        )
    return tokenizer, model


def _check_end_of_text(settings: TextTowerSettings, config: Any, tokenizer: Any) -> None:
    """Raises ConfigError if a CLIP's tokenizer ends captions with another token than the configuration's end of text. CLIP
    pools the state of that token; without it every caption would get the same vector, the state of its first token."""
    if config.model_type != "clip_text_model":
        return
    # In transformers 2 stands for the largest id, as in configurations before its version 4.31.
    end = len(tokenizer) - 1 if config.eos_token_id == 2 else config.eos_token_id
    if tokenizer("a")["input_ids"][-1] != end:
        raise ConfigError(
            f"model.text.model: the tokenizer of {settings.model} ends captions with token {tokenizer('a')['input_ids'][-1]}, "
            f"its configuration says {end}: give the folder the tokenizer that the model was trained with"
        )
