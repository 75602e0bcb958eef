"""How far a run is, and which run it is."""

from dataclasses import asdict, dataclass, field
from typing import Any

from alexnet_torch.errors import UserError


@dataclass
class Window:
    """Sums over the steps since the last report. Kept in checkpoints, so that reports resume too."""

    loss: float = 0.0
    wrong: int = 0
    images: int = 0
    steps: int = 0


@dataclass
class State:
    """How far a run is: with the weights and velocities, all that resuming needs."""

    step: int = 0
    validated: int = 0
    errors: list[float] = field(default_factory=list)
    best_step: int | None = None
    at_chance: int = 0
    metrics_size: int = 0
    window: Window = field(default_factory=Window)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "State":
        """The state that `to_dict` described."""
        return cls(**{**values, "window": Window(**values["window"])})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)


def refuse_another_run(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compares a checkpoint's identity with the run's that would continue it.

    Args:
        theirs: what the checkpoint is of.
        ours: what is to be resumed: the architecture, the data set, and the options that decide a run.

    Raises:
        UserError: they differ; the message names in what.
    """
    for what, value in ours.items():
        if theirs.get(what) == value:
            continue
        if what.startswith("--"):
            differ = f"the run has {what} {theirs.get(what)}, not {value}"
        else:
            named = {"architecture": "--recipe and --ablation name", "optimizer": "--recipe names"}
            differ = f"the run is of another {what} than {named.get(what, '--data names')}"
        raise UserError(f"--resume: {differ}; resume with what the run had, or start a new one")
