"""The contrastive loss of dual encoders."""

import torch
from torch import Tensor
from torch.nn import functional

LOSS_NAME = "symmetric InfoNCE"


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, temperature: float, similarity: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE on cosine similarities (Radford et al. 2103.00020; Wu et al. 2308.07545, eq. 2).

    Args:
        image_features, text_features: (B, d), of any norm; row i of both is pair i.
        temperature: the cosines are divided by it.
        similarity: (B, B) non-negative, image by text, each row and column with a positive sum: how much two pairs match
            (after LoRS, Xu et al. 2406.03793, weighted InfoNCE); rows and columns scaled to sum one are the targets of the
            two cross-entropies. None: the identity.

    Returns:
        A scalar: the mean of the image-to-text and the text-to-image cross-entropy.
    """
    logits = functional.normalize(image_features) @ functional.normalize(text_features).T / temperature
    if similarity is None:
        own = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    rows = similarity / similarity.sum(dim=1, keepdim=True)
    columns = similarity.T / similarity.T.sum(dim=1, keepdim=True)
    return (functional.cross_entropy(logits, rows) + functional.cross_entropy(logits.T, columns)) / 2
