"""How the settings of several runs differ."""

import json
from collections.abc import Mapping
from typing import Any

# where and how a run was trained, not what it learnt
_NOT_COMPARED = {"output", "resume", "cache", "timeout", "log_every", "save_every", "track", "quiet", "verbose"}


def compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings by which runs are compared."""
    return {name: value for name, value in settings.items() if name not in _NOT_COMPARED}


def differing_settings(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of the settings that are not the same in all runs, in the settings' order.

    Args:
        runs: settings by the name of the run; a setting that one lacks is None there.
    """
    names = dict.fromkeys(name for settings in runs.values() for name in compared(settings))
    return [name for name in names if len({json.dumps(settings.get(name)) for settings in runs.values()}) > 1]


def same_but_seed(runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Returns the names of the runs in groups that differ only in their seed, in the runs' order.

    Runs of the same seed, too, and those whose settings are unknown, are groups of their own.
    """
    groups: dict[str, list[str]] = {}
    for index, (name, settings) in enumerate(runs.items()):
        rest = {key: value for key, value in compared(settings).items() if key != "seed"}
        key = json.dumps(rest, sort_keys=True)
        seeds = {runs[other].get("seed") for other in groups.get(key, [])}
        if settings.get("seed") is None or settings["seed"] in seeds:
            key += f" {index}"
        groups.setdefault(key, []).append(name)
    return list(groups.values())
