"""How far a run is, and what identifies the run: the contents of a checkpoint besides the tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_torch.data.fingerprint import Fingerprint
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.sources.classes import same_names
from alexnet_torch.errors import UserError
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings


@dataclass
class Window:
    """Sums over the steps since the last report. Saved in checkpoints, so that reports continue exactly."""

    loss: float = 0.0
    wrong: int = 0
    images: int = 0
    steps: int = 0


@dataclass
class RunState:
    """How far a run is: with the weights and velocities, all that resuming needs."""

    step: int = 0  # steps done
    validated: int = 0  # the step of the last validation
    errors: list[float] = field(default_factory=list)  # top-1 errors of all validations, oldest first
    best_step: int | None = None  # the step of the lowest error; None before the first validation
    at_chance: int = 0  # successive steps whose reported loss was that of guessing
    metrics_size: int = 0  # bytes of metrics.jsonl at the last checkpoint
    window: Window = field(default_factory=Window)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunState":
        """Returns the state that `dataclasses.asdict` described, in a checkpoint."""
        return cls(**{**values, "window": Window(**values["window"])})


def identity(settings: Settings, recipe: Recipe, prepared: PreparedImages) -> dict[str, Any]:
    """Returns what must be the same to resume a run: with another value, it would be a run that no command makes."""
    return {
        "architecture": repr(recipe.architecture),
        "optimizer": recipe.optimizer,
        "data set": prepared.fingerprint.saved(),
        "classes": list(prepared.classes),
        **settings.identity(),
    }


def require_same_run(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raises a UserError if a checkpoint's identity differs from the current run's; it names the first difference."""
    for name, value in current.items():
        if saved.get(name) == value or (name in _SAME and _SAME[name](saved[name], value)):
            continue
        if name == "--init" and value and Path(saved.get(name) or "").resolve() == Path(value).resolve():
            continue  # another path of the same; earlier versions recorded it as it was given
        if name.startswith("--"):
            difference = f"the run has {name} {saved.get(name)}, not {value}"
        else:
            options = {"architecture": "--recipe and --ablation name", "optimizer": "--recipe names"}
            other = "other classes" if name == "classes" else f"another {name}"
            difference = f"the run is of {other} than {options.get(name, '--data names')}"
        fix = "resume with the run's own settings, or start a new run in another folder"
        raise UserError(f"--resume: {difference}; {fix}")


def _same_data_set(saved: str | dict[str, Any], current: dict[str, Any]) -> bool:
    return Fingerprint.of(saved).same_as(Fingerprint.of(current))


_SAME: dict[str, Callable[[Any, Any], bool]] = {"data set": _same_data_set, "classes": same_names}
"""How values are compared that may be the same but not equal."""
