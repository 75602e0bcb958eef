"""runs: the runs in a folder."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from alexnet_torch.commands.options import shown


def runs_command(
    folder: Annotated[Path, Positional, shown("DIR")] = Path("runs"),
    compare: bool = False,
) -> None:
    """List runs: the settings that differ, state, best error, time; or compare them over seeds.

    Args:
        folder: The folder of the runs.
        compare: Print mean and spread over the runs that differ only in their seed.
    """
    from alexnet_torch.evaluation.runs import comparison_table, find_runs, run_table

    runs = find_runs(folder)
    if not runs:
        print(f"{folder}: no runs")
    else:
        print(comparison_table(runs) if compare else run_table(runs))
