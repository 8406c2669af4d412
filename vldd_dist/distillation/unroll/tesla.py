"""TESLA (Cui et al. 2211.10586): the adjoint stays that of the last step. Not the gradient; here for comparison with LoRS."""

from vldd_dist.distillation.unroll.exact import by_double_backward
from vldd_dist.distillation.unroll.protocol import Gradient

TESLA = Gradient(by_double_backward, update_adjoint=False)
