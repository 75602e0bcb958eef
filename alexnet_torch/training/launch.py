"""Builds the training that a command line names, in one process or in each of several."""

import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.digits import data_folder
from alexnet_torch.data.prepare import prepare, print_to_stderr
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.distributed.placement import Placement, place
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write
from alexnet_torch.model.layers import kernels
from alexnet_torch.recipes.ablations import apply_ablation
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings, resolve
from alexnet_torch.run_folder import CONFIG, MODEL_WEIGHTS
from alexnet_torch.training.initial_weights import check
from alexnet_torch.training.trainer import Trainer


def build(given: dict[str, Any], ranks: Ranks) -> Trainer:
    """The training that the options name, its images prepared.

    Args:
        given: the options, by name.
        ranks: the processes.

    Raises:
        UserError: the options are wrong, in one of the processes.
        Elsewhere: that one is another.
    """
    # by the first process: others, on other machines, may not see the run's folder
    settings = Settings(**ranks.broadcast_from_main(lambda: asdict(_settings(given, ranks.is_restart))))
    recipe, placement = ranks.run_on_all(lambda: _plan(settings, ranks.world))
    if ranks.is_main:
        print(placement.describe(), flush=True)
    # a process of each machine compiles and decodes; the others then find that it is done
    prepared = ranks.run_on_all(lambda: _first_of_machine(settings, placement) if ranks.world.local_rank == 0 else None)
    prepared = ranks.run_on_all(lambda: prepared or _images(settings, _said_already))
    _require_same(prepared, ranks)
    output = Path(settings.output)
    try:
        # which refuses weights that do not fit before there is a folder, and another run's before its config.json
        # is written over
        trainer = Trainer(settings, recipe, prepared, placement, ranks)
        text = json.dumps(_config(settings, recipe, prepared, placement), indent=1).encode()
        with ranks.main_only() as (first, _):
            if first:
                atomic_write(output / CONFIG, lambda file: file.write(text))
                ranks.mark_started()
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); name another folder") from error
    return trainer


def _settings(given: dict[str, Any], begun: bool) -> Settings:
    """What was given, resolved; torchrun's processes go on by themselves when it starts them again."""
    output = Path(given.get("output", ""))
    holds = "output" in given and any((output / kept).exists() for kept in (CONFIG, MODEL_WEIGHTS))
    if holds and begun:
        given = {name: value for name, value in given.items() if name != "config"} | {"resume": True}
    settings = resolve(given)
    if holds and not settings.resume:
        raise UserError(f"--output {output}: holds a run already; continue it with --resume, or name another folder")
    return settings


def _plan(settings: Settings, world: World) -> tuple[Recipe, Placement]:
    recipe = apply_ablation(RECIPES[settings.recipe](), settings.ablation)
    try:
        recipe.architecture.final_side(settings.image_size)
    except ValueError as error:
        raise UserError(f"--image-size: {error}") from error
    check(settings, recipe.architecture)
    named = settings.devices.split(",") if settings.devices else None
    placement = place(named, recipe.architecture.towers, settings.split, world)
    if placement.split in ("ranks", "hybrid"):
        if settings.compile:
            raise UserError(f"--compile: not with --split {placement.split}, whose exchanges torch cannot compile")
        if settings.amp == "fp16":
            raise UserError(f"--amp fp16: not with --split {placement.split}; --amp bf16 needs no scale of the loss")
    if settings.batch_size < placement.slices[1]:
        raise UserError(f"--batch-size {settings.batch_size}: must be {placement.slices[1]} or more, an image a slice")
    return recipe, placement


def _first_of_machine(settings: Settings, placement: Placement) -> PreparedImages:
    """What one process of a machine does for all: else each would compile for itself, and say so."""
    if placement.world.local_size > 1 and placement.devices[0].type == "cpu":
        kernels.available()
    return _images(settings)


def _images(settings: Settings, announce: Callable[[str], None] = print_to_stderr) -> PreparedImages:
    side, root = decoded_side(settings.image_size), data_folder(settings.data)
    return prepare(root, side, settings.cache, settings.skip_bad, announce=announce)


def _said_already(text: str) -> None:
    """Prints nothing: the first process of the machine has."""
    del text


def _require_same(prepared: PreparedImages, ranks: Ranks) -> None:
    """Refuses machines whose images differ: their orders and crops would be of different runs."""
    first = ranks.broadcast_from_main(lambda: {"fingerprint": prepared.fingerprint})

    def compare() -> None:
        if prepared.fingerprint != first["fingerprint"]:
            raise UserError(
                f"--data: {prepared.root} on the machine of rank {ranks.world.rank} has other images than on that of "
                "rank 0; copy those"
            )

    ranks.run_on_all(compare)


def _config(settings: Settings, recipe: Recipe, prepared: PreparedImages, placement: Placement) -> dict[str, Any]:
    """What config.json tells of a run."""
    return {
        "settings": asdict(settings),
        "architecture": asdict(recipe.architecture),
        "classes": list(prepared.classes),
        "devices": [str(device) for device in placement.devices],
        "placement": placement.describe(),
        "versions": {"torch": torch.__version__} | {name: version(name) for name in ("torchvision", "numpy", "pillow")},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The source's commit, if it is in a git checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parents[1]), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
