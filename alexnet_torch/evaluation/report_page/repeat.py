"""The command that repeats a run, from its settings."""

import shlex
from pathlib import Path
from typing import Any

from alexnet_torch.recipes.settings import Settings, flag, options_of, resolve

_OF_THE_FIRST_RUN = {"output", "resume"}


def changed_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that differ from the defaults of the run's recipe and ablation, by name."""
    named = {name: settings[name] for name in ("recipe", "ablation") if settings.get(name) is not None}
    defaults = vars(resolve(named))
    return {
        name: value
        for name in options_of(Settings)
        if name in settings and name not in _OF_THE_FIRST_RUN
        # a value of None or False is one that no option gives
        if (value := settings[name]) not in (None, False) and (name in ("data", "recipe") or value != defaults[name])
    }


def train_program(processes: int = 1) -> list[str]:
    """Returns the first words of a command that trains: train.py of this checkout, or the installed program."""
    is_checkout = (Path(__file__).parents[3] / "train.py").is_file()
    if processes > 1:
        torchrun = ["torchrun", f"--nproc_per_node={processes}"]
        return [*torchrun, "train.py"] if is_checkout else [*torchrun, "-m", "alexnet_torch", "train"]
    return ["python", "train.py"] if is_checkout else ["alexnet-torch", "train"]


def repeating_command(settings: dict[str, Any], processes: int, output: str) -> str:
    """Returns the command that trains the same run into another folder.

    Args:
        settings: the run's, from its config.json.
        processes: how many processes trained it.
        output: the new run's folder.
    """
    words = train_program(processes)
    for name, value in changed_settings(settings).items():
        words += [flag(name)] if value is True else [flag(name), str(value)]
    return shlex.join([*words, flag("output"), output])
