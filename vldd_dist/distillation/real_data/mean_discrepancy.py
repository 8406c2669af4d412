"""Maximum mean discrepancy of points on a sphere (Gretton et al. 2012), with a kernel of their angle."""

from torch import Tensor

# Cosines beyond have no gradient: that of the angle is infinite at 1 and -1. An angle below 1.4e-3 counts as that.
LARGEST_COSINE = 1 - 1e-6
# Squared discrepancies below have no gradient: that of the root is infinite at 0.
SMALLEST = 1e-8


def angle_kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    """(n, m), exp(-angle^2 / (2 width^2)) of the rows of (n, d) and (m, d), each of norm one; angles in radians."""
    angles = (a @ b.T).clamp(-LARGEST_COSINE, LARGEST_COSINE).arccos()
    return (-angles.square() / (2 * width**2)).exp()


def mean_discrepancy(a: Tensor, b: Tensor, width: float) -> Tensor:
    """The root of the biased estimate of the squared discrepancy: means of the kernel over all pairs, a row with itself too."""
    within = angle_kernel(a, a, width).mean() + angle_kernel(b, b, width).mean()
    return (within - 2 * angle_kernel(a, b, width).mean()).clamp(min=SMALLEST).sqrt()
