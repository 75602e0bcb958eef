"""What identifies the dropout masks of a training step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DropoutKey:
    """Identifies one step's dropout masks.

    Attributes:
        seed, step: of the run.
        first_row: the images of a call are rows `first_row` and on of the global batch.
        values: of `AlexNet.dropout_keys(seed, step)`, on the network's first device, for a caller who sends them there
            with the images; without them each call makes and sends them.
    """

    seed: int
    step: int
    first_row: int = 0
    values: Tensor | None = None
