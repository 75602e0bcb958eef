"""Mixed precision: matrix products and convolutions in 16 bits; weights, normalisation and loss in 32."""

from contextlib import AbstractContextManager

import torch


class Precision:
    """The number formats of a training step.

    Args:
        name: "bf16", "fp16", or None for float32 everywhere.
        device: the loss's device.

    Attributes:
        scaler: scales the loss, so that small gradients do not vanish in fp16; does nothing for the others.
    """

    def __init__(self, name: str | None, device: torch.device) -> None:
        self._device, self._dtype = device.type, {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for the forward pass and the loss."""
        return torch.autocast(self._device, dtype=self._dtype, enabled=self._dtype is not None)
