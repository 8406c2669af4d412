"""Experts as teachers: their similarities of real pairs, which say more than which text is an image's own (Hinton et al.
1503.02531)."""

import torch
from torch import Tensor
from torch.nn import functional

from vldd_dist.distillation.experts import Experts
from vldd_dist.distillation.student.student import Student
from vldd_dist.models.losses.cosine import cosines
from vldd_dist.models.parameters import call


class Teacher:
    """All experts together, with the parameters of their last epoch.

    Args:
        student: of the experts' model.
        experts: all are committed; they are read here.
    """

    def __init__(self, student: Student, experts: Experts) -> None:
        self.student = student
        device = student.model.mean.device
        self.parameters = []
        for index in range(experts.count):
            trajectory = experts[index]
            image, text = (trajectory.snapshot(trajectory.epochs[-1], tower) for tower in ("image", "text"))
            self.parameters.append([tensor.to(device) for tensor in student.view.from_dicts(image, text)])

    @torch.no_grad()
    def similarities(self, inputs: Tensor, texts: Tensor) -> Tensor:
        """(B, B), images by texts: the mean over experts of the cosines, without dropout.

        Args:
            inputs: model inputs (B, ...).
            texts: (B, D).
        """
        model, training = self.student.model, self.student.model.training
        model.eval()
        try:
            found = [cosines(*call(model, self.student.view, theta, inputs, texts)) for theta in self.parameters]
        finally:
            model.train(training)
        return torch.stack(found).mean(dim=0)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against softmax(targets), the mean over rows and over columns of both (B, B)."""
    return (
        functional.cross_entropy(logits, targets.softmax(dim=1)) + functional.cross_entropy(logits.T, targets.T.softmax(dim=1))
    ) / 2
