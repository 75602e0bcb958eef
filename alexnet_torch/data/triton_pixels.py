"""From crops of pixels to images on a GPU, in one Triton kernel. Imported only where a GPU computes."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def subtract_kernel(
    pixels_ptr, positions_ptr, mean_ptr, noise_ptr, out_ptr, size, side,
    NOISE: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
):  # fmt: skip
    program = tl.program_id(0)
    image, y = program // size, program % size
    position = positions_ptr + 3 * image
    top, left, mirrored = tl.load(position), tl.load(position + 1), tl.load(position + 2)
    at = tl.arange(0, BLOCK)
    inside, x, colour = at < 3 * size, at // 3, at % 3
    column = left + tl.where(mirrored != 0, size - 1 - x, x)
    start = program.to(tl.int64) * 3 * size
    value = tl.load(pixels_ptr + start + at, mask=inside, other=0).to(out_ptr.dtype.element_ty)
    value -= tl.load(mean_ptr + ((top + y) * side + column) * 3 + colour, mask=inside, other=0)
    if NOISE:
        value += tl.load(noise_ptr + 3 * image + colour, mask=inside, other=0)
    if SCALE != 1:
        value *= SCALE
    tl.store(out_ptr + start + at, value, mask=inside)


def subtract(pixels: Tensor, positions: Tensor, mean: Tensor, noise: Tensor | None, scale: float) -> Tensor:
    out, size = torch.empty(pixels.shape, dtype=mean.dtype, device=pixels.device), pixels.shape[1]
    constants = {"NOISE": noise is not None, "SCALE": scale, "BLOCK": triton.next_power_of_2(3 * size)}
    if len(pixels):
        with torch.cuda.device_of(pixels):  # Triton launches on the current device
            subtract_kernel[(len(pixels) * size,)](
                pixels, positions, mean, mean if noise is None else noise, out, size, len(mean), **constants
            )
    return out
