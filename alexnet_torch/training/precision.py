"""Mixed precision: matrix products and convolutions in 16 bits; weights, normalisation and loss in 32."""

from contextlib import AbstractContextManager

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The number formats of a training step.

    Args:
        name: "bf16", "fp16", or None for float32 everywhere.
        device: the loss's device.

    Attributes:
        scaler: scales the loss, so that small gradients do not vanish in fp16; does nothing for the others.
    """

    def __init__(self, name: str | None, device: torch.device) -> None:
        self._name, self._device = name, device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for the forward pass and the loss."""
        dtype = _DTYPES[self._name] if self._name else None
        return torch.autocast(self._device, dtype=dtype, enabled=dtype is not None)
