"""How far an error measured on few images may be from that on all images of the kind."""

import math

_Z = 1.959963984540054  # the standard normal distribution has 95% of its mass within this distance of 0


def wilson_interval(wrong: int, images: int) -> tuple[float, float]:
    """Returns the bounds of an error, as fractions: Wilson's score interval (1927) of 95% confidence.

    Unlike error ± two standard errors it stays within 0..1 and is right for few images and for errors near 0.

    Args:
        wrong: how many images were wrong, 0 to `images`.
        images: number of images, at least 1.
    """
    error, z2 = wrong / images, _Z * _Z / images
    centre = (error + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(error * (1 - error) / images + z2 / (4 * images))
    return max(0.0, centre - half), min(1.0, centre + half)
