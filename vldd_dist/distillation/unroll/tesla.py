"""TESLA (Cui et al. 2211.10586), used by LoRS: the adjoint stays lam_T. This is not the gradient; it is here for comparison."""

from vldd_dist.distillation.unroll.exact import by_double_backward
from vldd_dist.distillation.unroll.protocol import Gradient

TESLA = Gradient(by_double_backward, update_adjoint=False)
