"""The command line of python -m alexnet_torch: finds the command that the arguments name, and runs it."""

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import tyro

from alexnet_torch.commands.evaluate_command import evaluate_command
from alexnet_torch.commands.export_command import export_command
from alexnet_torch.commands.features_command import features_command
from alexnet_torch.commands.figures_command import figures_command
from alexnet_torch.commands.import_command import import_command
from alexnet_torch.commands.predict_command import predict_command
from alexnet_torch.commands.prepare_command import prepare_command
from alexnet_torch.commands.report_command import report_command
from alexnet_torch.early_stop import stopped_by_signals
from alexnet_torch.errors import OutputLost, UserError, status_of
from alexnet_torch.files import explain_os_error
from alexnet_torch.malloc import reuse_freed_memory
from alexnet_torch.output_streams import guarded_streams
from alexnet_torch.recipes.command_line import one_line_errors

PROGRAM = "python -m alexnet_torch"


def _parse_only(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Returns the command for tyro to parse but not to run, so that `one_line_errors` sees only tyro's messages."""

    @wraps(command)
    def parsed(*values: Any, **options: Any) -> Callable[[], None]:
        return partial(command, *values, **options)

    return parsed


COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": prepare_command,
    "predict": predict_command,
    "evaluate": evaluate_command,
    "import": import_command,
    "export": export_command,
    "figures": figures_command,
    "report": report_command,
    "features": features_command,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the arguments (by default sys.argv) name; returns the exit status."""
    try:
        with stopped_by_signals(), guarded_streams(output_is_result=True):
            return _run(arguments)
    except OutputLost as error:
        if not error.is_quiet:
            with guarded_streams(output_is_result=False):
                print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_status


def _run(arguments: list[str] | None) -> int:
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(_parse_only(command))
    try:
        with one_line_errors(PROGRAM):
            run_command = app.cli(args=arguments, prog=PROGRAM, config=(tyro.conf.FlagCreatePairsOff,))
        reuse_freed_memory()
        run_command()
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"{PROGRAM}: {explain_os_error(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return status_of(interrupt)
    return 0
