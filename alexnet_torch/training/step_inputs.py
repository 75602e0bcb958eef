"""What a training step reads from the host: on a GPU it arrives in two transfers, the pixels and the rest."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Batch


@dataclass(frozen=True)
class StepInputs:
    """A batch on the network's first device."""

    images: Tensor  # (n, 3, H, W) float
    labels: Tensor  # (n,) int64, or (N,) of the full batch
    dropout_keys: Tensor  # of `AlexNet.dropout_keys`


def step_inputs(batch: Batch, dropout_keys: Tensor, mean: Tensor) -> StepInputs:
    """Sends a batch to the device of the mean image, and makes the network's images of its pixels.

    Args:
        batch: from the loader, on the CPU.
        dropout_keys: int64, on the CPU.
        mean: (S, S, 3) mean image, 0..255.
    """
    pixels, noise = batch.images.to(mean.device, non_blocking=True), batch.colour_noise  # (n, H, W, 3), (n, 3)
    if mean.device.type == "cpu":
        images = subtract_mean(pixels, batch.crops, mean, noise, batch.scale)
        return StepInputs(images, batch.labels, dropout_keys)
    positions = torch.from_numpy(batch.crops.positions())
    small = [batch.labels, dropout_keys, positions] + ([] if noise is None else [noise])
    labels, keys, positions, *noises = send_together(small, mean.device)
    images = subtract_mean(pixels, batch.crops, mean, noises[0] if noises else None, batch.scale, positions)
    return StepInputs(images, labels, keys)


def send_together(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Sends small tensors from the CPU to a device in one transfer, for which the CPU does not wait.

    Args:
        tensors: contiguous; those of the widest type first, so that each starts at a multiple of its width.
        device: where to.
    """
    blocks = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    sizes = [len(block) for block in blocks]
    # a GPU copies only from page-locked memory without stopping the CPU
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.concatenate([block.numpy() for block in blocks], out=packed.numpy())
    sent = packed.to(device, non_blocking=True).split(sizes)
    return [block.view(tensor.dtype).view(tensor.shape) for block, tensor in zip(sent, tensors, strict=True)]
