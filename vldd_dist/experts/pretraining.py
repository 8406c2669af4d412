"""Pretrains an image tower without a download, by attribute classification on built-in scenes.

The method assumes a pretrained image tower. On machines without pretrained weights the tower is first trained to recognise
shapes, colours, sizes, backgrounds and relations, on scenes that the experiment's data do not contain.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vldd_dist.config.sections.pretrain import PretrainSettings
from vldd_dist.data.images import to_tensor
from vldd_dist.data.scenes import attribute_vector, draw_scenes
from vldd_dist.errors import DivergenceError
from vldd_dist.events import Progress, SendReport
from vldd_dist.models.image.backbone import feature_size
from vldd_dist.seeding import derive_seed, numpy_generator, seeded

# The number of the first scene used here. The scenes of an experiment's splits have other numbers.
PRETRAINING_OFFSET = 10_000_000


def pretrain_on_attributes(
    backbone: nn.Module,
    settings: PretrainSettings,
    *,
    image_size: int,
    mean: Tensor,
    std: Tensor,
    seed: int,
    device: torch.device,
    report: SendReport,
) -> dict[str, Tensor]:
    """Train a timm backbone (num_classes=0) and a linear classifier, which is discarded, with Adam on binary cross-entropy.

    Args:
        mean, std: (3,), to normalise pixels in 0..1.

    Returns:
        The backbone's state dict, on the CPU.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    scenes = draw_scenes(settings.images, seed, image_size, offset=PRETRAINING_OFFSET)
    pixels = torch.stack([to_tensor(scene.image) for scene in scenes])
    targets = torch.stack([attribute_vector(scene) for scene in scenes])
    with seeded(derive_seed(seed, "pretraining"), device):
        backbone = backbone.to(device).train()
        classifier = nn.Linear(feature_size(backbone), targets.shape[1]).to(device)
        optimiser = torch.optim.Adam([*backbone.parameters(), *classifier.parameters()], lr=settings.lr)
        done, total = 0, settings.epochs * settings.images
        for epoch in range(settings.epochs):
            order = torch.from_numpy(numpy_generator(seed, "pretraining", epoch).permutation(settings.images))
            for chosen in order.split(settings.batch_size):
                images = (pixels[chosen].float() / 255 - mean[:, None, None]) / std[:, None, None]
                logits = classifier(backbone(images.to(device)))
                loss = functional.binary_cross_entropy_with_logits(logits, targets[chosen].to(device))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                done += len(chosen)
                if not math.isfinite(loss.item()):
                    raise DivergenceError(f"pretraining: the loss is {loss.item()} in epoch {epoch}: lower pretrain.lr")
                report(Progress(done, total, epoch=epoch + 1, loss=loss.item()))
    return {name: tensor.detach().cpu() for name, tensor in backbone.state_dict().items()}
