"""Maximum mean discrepancy (Gretton et al. 2012) of points on a sphere, with a kernel of the angle between them."""

from torch import Tensor

# Cosines are clamped to +-this, because the gradient of the angle is infinite at 1 and -1: angles below 1.4e-3 have none.
LARGEST_COSINE = 1 - 1e-6
# Squared discrepancies are clamped to at least this, because the gradient of the root is infinite at 0.
SMALLEST = 1e-8


def angle_kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    """(n, m) values exp(-angle^2 / (2 width^2)) for the rows of `a` (n, d) and `b` (m, d), of norm one; angles in radians."""
    angles = (a @ b.T).clamp(-LARGEST_COSINE, LARGEST_COSINE).arccos()
    return (-angles.square() / (2 * width**2)).exp()


def mean_discrepancy(a: Tensor, b: Tensor, width: float) -> Tensor:
    """The maximum mean discrepancy of the rows of `a` (n, d) and `b` (m, d): the root of the biased estimate of its square,
    whose kernel means include each row with itself."""
    within = angle_kernel(a, a, width).mean() + angle_kernel(b, b, width).mean()
    return (within - 2 * angle_kernel(a, b, width).mean()).clamp(min=SMALLEST).sqrt()
