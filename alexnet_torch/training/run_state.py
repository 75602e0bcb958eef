"""How far a run is, and which run it is; saved, and loaded again."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.distributed import sharded_state as shards
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.training import checkpoints as checkpoint


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


def identity(settings: Settings, recipe: Recipe, prepared: PreparedImages) -> dict[str, Any]:
    """Returns what must be the same to resume a run: with another value, it would be a run that no command makes."""
    return {
        "architecture": repr(recipe.architecture),
        "optimizer": recipe.optimizer,
        "data set": prepared.fingerprint,
        "classes": list(prepared.classes),
        **settings.identity(),
    }


@dataclass(frozen=True)
class Parts:
    """What training changes, besides the `State`."""

    net: AlexNet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save(folder: Path, identity: dict[str, Any], state: State, parts: Parts, whole: shards.Held) -> None:
    """Saves a checkpoint of all that resuming needs, in any placement.

    Args:
        folder: of checkpoints.
        identity: the run's, of the function of this name.
        state, parts: the run's.
        whole: of `shards.gather`.
    """
    kept = {
        "identity": identity,
        "state": state.to_dict(),
        "weights": shards.weights(whole),
        "optimizer": shards.kept(whole),
        "scaler": parts.scaler.state_dict(),
    }
    checkpoint.save(folder, state.step, kept, state.best_step)


def load(folder: Path, identity: dict[str, Any], parts: Parts, ranks: Ranks) -> tuple[State, str] | None:
    """Continues from the newest intact checkpoint, which the first rank alone reads.

    Args:
        folder: of checkpoints.
        identity: of the run that is to go on.
        parts: given what of the checkpoint's weights, velocities and scale lives here.
        ranks: the run's.

    Returns:
        how far the run is, and the checkpoint's path; None if there has been no checkpoint.

    Raises:
        UserError: there were checkpoints and none is intact, or they are another run's.
        Elsewhere: the same, on ranks that are not the first.
    """
    found: tuple[Path, dict[str, Any]] | None = None
    with ranks.main_only() as (first, said):
        if first and (found := _newest(folder, identity)):
            said.append(str(found[0]))
    loaded = found[1] if found else None
    if not ranks.is_single_process:
        packed = ranks.broadcast_bytes(shards.pack(loaded) if loaded else None)
        loaded = loaded or (None if packed is None else shards.unpack(packed))
    if loaded is None:
        return None
    shards.take(parts.net, parts.optimizer, loaded["weights"], loaded["optimizer"])
    parts.scaler.load_state_dict(loaded["scaler"])
    return State.from_dict(loaded["state"]), said[0]


def _newest(folder: Path, identity: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    def damaged(path: Path) -> None:
        print(f"{path} is damaged (its checksum does not hold): passed over")

    newest = checkpoint.newest_intact(folder, damaged)
    if newest is None and checkpoint.found(folder):
        raise UserError(f"--resume: no checkpoint in {folder} is intact; start a new run in another --output")
    if newest is not None:
        path, loaded = newest
        refuse_another_run(loaded["identity"], identity)
        if not set(loaded["optimizer"]) <= set(loaded["weights"]):
            raise UserError(f"--resume: {path} was saved by another version of this project; go on with that one")
    return newest


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
