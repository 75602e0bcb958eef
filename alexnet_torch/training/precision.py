"""Mixed precision: products and convolutions in 16 bits, weights, normalisation and loss in 32."""

from contextlib import AbstractContextManager

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How a step computes.

    Args:
        name: "bf16", "fp16", or None for float32 throughout.
        device: of the loss.

    Attributes:
        scaler: keeps small gradients of fp16 from vanishing; does nothing in the others.
    """

    def __init__(self, name: str | None, device: torch.device) -> None:
        self._name, self._device = name, device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """The forward pass and the loss go in this context."""
        dtype = _DTYPES[self._name] if self._name else None
        return torch.autocast(self._device, dtype=dtype, enabled=dtype is not None)
