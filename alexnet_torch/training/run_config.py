"""The content of config.json: what was run, on what, with which versions."""

import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.run_folder import library_versions


def describe_run(settings: Settings, recipe: Recipe, prepared: PreparedImages, placement: Placement) -> dict[str, Any]:
    """Returns the content of config.json."""
    return {
        "settings": settings.recorded(),
        "architecture": asdict(recipe.architecture),
        "classes": list(prepared.classes),
        "images": {"train": len(prepared.train.labels), "val": len(prepared.val.labels)},
        "devices": [str(device) for device in placement.devices],
        "placement": placement.describe(),
        "processes": placement.world.size,
        "versions": library_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "hardware": _hardware(placement.devices),
        "commit": _commit(),
    }


def _hardware(devices: list[torch.device]) -> dict[str, Any]:
    """Returns the names of the processor and of the GPUs in use, and the CPU cores and threads of this process."""
    gpus = [torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"]
    return {"processor": _processor(), "cores": available_cores(), "threads": torch.get_num_threads(), "GPUs": gpus}


def _processor() -> str:
    """Returns the processor's model, where Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")


def _commit() -> str | None:
    """Returns the commit of the source; None if the package is installed, perhaps inside another project's checkout."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
