"""Mixed precision: matrix products and convolutions in 16 bits; weights, normalisation and loss in 32."""

from contextlib import AbstractContextManager, ExitStack

import torch


class Precision:
    """The number formats of a training step.

    Args:
        name: "bf16", "fp16", or None for float32 everywhere.
        devices: the towers' devices; the loss is on the first.

    Attributes:
        dtype: of matrix products and convolutions; None for float32.
        device_types: of the devices, each once.
        scaler: scales the loss, so that small gradients do not vanish in fp16; does nothing for the others.
    """

    def __init__(self, name: str | None, *devices: torch.device) -> None:
        self.dtype = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self.device_types = list(dict.fromkeys(device.type for device in devices))
        self.scaler = torch.amp.GradScaler(self.device_types[0], enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the context for the forward pass and the loss."""
        contexts = ExitStack()
        for kind in self.device_types:  # a context of one type leaves the other types in 32 bits
            contexts.enter_context(torch.autocast(kind, dtype=self.dtype, enabled=self.dtype is not None))
        return contexts
