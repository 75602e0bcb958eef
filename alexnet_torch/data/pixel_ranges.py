"""Pixels of any kind become RGB of 0..255; pixels whose range is not known are refused, not guessed."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

_TWELVE_BITS = 4095
_SCALED_TO_16_BITS = ("PPM", "JPEG2000")  # by Pillow, with the range that the file declares


class UnknownRange(Exception):
    """A file does not say which of its values is white; the message gives the reason and the fix."""


@dataclass(frozen=True)
class PixelRange:
    """What the values of an image's pixels mean.

    Attributes:
        white: the value of white: 255, or more for grey images of more than 8 bits.
        negative: whether 0 is white and that value black; Pillow inverts such images itself if they have 8 bits.
    """

    white: int = 255
    negative: bool = False

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """Converts a loaded image of any mode to RGB, transparent pixels over white."""
        if image.mode == "RGB":
            return image
        if _is_wide(image):
            # convert() would clip 0..65535 to 0..255
            values = np.asarray(image).astype(np.int32).clip(0, self.white)
            values = self.white - values if self.negative else values
            return Image.fromarray(((values * 510 + self.white) // (2 * self.white)).astype(np.uint8)).convert("RGB")
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")


def has_16_bits(image: Image.Image) -> bool:
    """Returns whether the file of an image that is not loaded yet has 16 bits a channel; of colours, Pillow loads 8."""
    return any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def pixel_range(image: Image.Image, sixteen_bits: bool = False) -> PixelRange:
    """Returns the range of a loaded image's pixels.

    Args:
        image: of any mode.
        sixteen_bits: whether its file had 16 bits a channel.

    Raises:
        UnknownRange: the pixels are floating-point or 32-bit integers; or they have 16 bits of which at most the lowest
            12 are used, as cameras and microscopes write them: as 16 bits they would be nearly black.
    """
    if image.mode == "F":
        raise UnknownRange("floating-point pixels have no defined range; convert them to 8 bits")
    if not _is_wide(image):
        if sixteen_bits and _largest(image) <= _TWELVE_BITS >> 8:
            raise _too_few_bits()
        return PixelRange()
    if image.format in _SCALED_TO_16_BITS:
        return PixelRange(65535)
    if image.mode == "I":
        raise UnknownRange("32-bit integer pixels have no defined range; convert them to 8 bits")
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    white = 2 ** min(16, tags.get(BITSPERSAMPLE, (16,))[0]) - 1
    if white == 65535 and 0 < _largest(image) <= _TWELVE_BITS:
        raise _too_few_bits()
    return PixelRange(white, tags.get(PHOTOMETRIC_INTERPRETATION) == 0)


def _is_wide(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _largest(image: Image.Image) -> int:
    """Returns the largest value of an image's colours, without the alpha channel."""
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return int(max(high for _, high in bands[: 1 if image.mode == "LA" else 3]))


def _too_few_bits() -> UnknownRange:
    return UnknownRange("its 16-bit pixels use 12 bits or less, so white is not known; convert them to 8 bits")
