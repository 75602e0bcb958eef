"""Trains AlexNet, in two towers, on a folder of images.

    python train.py --data imagenet/                                 one device, or two GPUs if visible
    python train.py --data imagenet/ --devices cuda:0,cuda:1         one tower on each, as in the paper
    python train.py --output runs/mine --resume                      go on with a run that was stopped
    python train.py --data photos/ --init runs/imagenet              start from a run's weights, or a file's

A run starts from its own checkpoint with --resume, else from the weights of --init, else from weights
that it draws.

All options: python train.py --help. Exit status: 0 done; 1 training failed; 2 the input was wrong;
130 or 143 stopped by SIGINT or SIGTERM after saving.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from alexnet_torch.errors import TrainingError, UserError
from alexnet_torch.files import atomic_write
from alexnet_torch.memory import keep_freed
from alexnet_torch.settings import Settings, parse, resolve


def main() -> int:
    """Parses, builds, trains; returns the exit status."""
    keep_freed()
    try:
        return run(resolve(parse()))
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before training, which saves first: see trainer.Stop
        print("train.py: stopped before training; the cache goes on where it was next time", file=sys.stderr)
        return 130


def run(settings: Settings) -> int:
    """Builds what the settings name and trains it; returns the exit status."""
    # not at the top: torch takes seconds that --help and mistakes in the options can do without
    import torch

    from alexnet_torch.ablations import ablated
    from alexnet_torch.data.cache import cached_side, prepare
    from alexnet_torch.data.samples import resolve as resolve_data
    from alexnet_torch.finetune import check
    from alexnet_torch.placement import choose_devices
    from alexnet_torch.recipes import RECIPES
    from alexnet_torch.signals import Stopped
    from alexnet_torch.trainer import Trainer

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # each process would train a run of its own, all into one folder
        raise UserError("torchrun: runs of several processes are not supported yet; start one with python train.py")
    recipe, output = ablated(RECIPES[settings.recipe](), settings.ablation), Path(settings.output)
    if not settings.resume and any((output / kept).exists() for kept in ("config.json", "model.pt")):
        raise UserError(f"--output {output}: holds a run already; continue it with --resume, or name another folder")
    try:
        recipe.architecture.final_side(settings.image_size)
    except ValueError as error:
        raise UserError(f"--image-size: {error}") from error
    check(settings, recipe.architecture)
    named = settings.devices.split(",") if settings.devices else None
    devices, why = choose_devices(named, recipe.architecture.towers, settings.split)
    print(f"towers on {', '.join(map(str, devices))} ({why})", flush=True)
    prepared = prepare(resolve_data(settings.data), cached_side(settings.image_size), settings.cache, settings.skip_bad)
    config = {
        "settings": asdict(settings),
        "architecture": asdict(recipe.architecture),
        "classes": list(prepared.classes),
        "devices": [str(device) for device in devices],
        "versions": {"torch": torch.__version__} | {name: version(name) for name in ("torchvision", "numpy", "pillow")},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "commit": _commit(),
    }
    try:
        # which refuses weights that do not fit before there is a folder, and another run's before its config.json
        # is written over
        trainer = Trainer(settings, recipe, prepared, devices)
        text = json.dumps(config, indent=1).encode()
        atomic_write(output / "config.json", lambda file: file.write(text))
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); name another folder") from error
    try:
        trainer.fit()
    except Stopped as stopped:
        print(f"train.py: {stopped}", file=sys.stderr)
        return stopped.status
    return 0


def _commit() -> str | None:
    """The source's commit, if it is in a git checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    sys.exit(main())
