"""The command line of python -m alexnet_torch, and of the installed program alexnet-torch: runs the command named."""

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import tyro

from alexnet_torch import train_command
from alexnet_torch.commands.evaluate_command import evaluate_command
from alexnet_torch.commands.export_command import export_command
from alexnet_torch.commands.features_command import features_command
from alexnet_torch.commands.figures_command import figures_command
from alexnet_torch.commands.import_command import import_command
from alexnet_torch.commands.predict_command import predict_command
from alexnet_torch.commands.prepare_command import prepare_command
from alexnet_torch.commands.report_command import report_command
from alexnet_torch.commands.runs_command import runs_command
from alexnet_torch.early_stop import stopped_by_signals
from alexnet_torch.errors import OutputLost, UserError, describe_memory_error, status_of
from alexnet_torch.files import explain_os_error
from alexnet_torch.malloc import reuse_freed_memory
from alexnet_torch.output_streams import guarded_streams
from alexnet_torch.recipes.command_line import one_line_errors
from alexnet_torch.verbosity import choose_verbosity, verbosity

PROGRAM, INSTALLED_PROGRAM = "python -m alexnet_torch", "alexnet-torch"
TRAIN = "train"
_DESCRIPTION = (
    "Train AlexNet, and use trained runs. Every command takes --quiet, for no progress bars, and --verbose, for the "
    "warnings of libraries."
)


def _parse_only(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Returns the command for tyro to parse but not to run, so that `one_line_errors` sees only tyro's messages."""

    @wraps(command)
    def parsed(*values: Any, **options: Any) -> Callable[[], None]:
        return partial(command, *values, **options)

    return parsed


def _listed_train_command() -> None:
    """Train a network on a folder of images."""


COMMANDS: dict[str, Callable[..., None]] = {
    TRAIN: _listed_train_command,  # only for the list: its options are those of train_command
    "prepare": prepare_command,
    "predict": predict_command,
    "evaluate": evaluate_command,
    "import": import_command,
    "export": export_command,
    "figures": figures_command,
    "report": report_command,
    "runs": runs_command,
    "features": features_command,
}


def installed_main() -> int:
    """Runs the program that pip installs."""
    return main(program=INSTALLED_PROGRAM)


def main(arguments: list[str] | None = None, program: str = PROGRAM) -> int:
    """Runs the command that the arguments (by default sys.argv) name; returns the exit status.

    Messages and the help begin with the program's name.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [TRAIN]:
        return train_command.main(arguments[1:], f"{program} {TRAIN}")
    try:
        with stopped_by_signals(), guarded_streams(output_is_result=True):
            return _run(arguments, program)
    except OutputLost as error:
        if not error.is_quiet:
            with guarded_streams(output_is_result=False):
                print(f"{program}: {error}", file=sys.stderr)
        return error.exit_status


def _run(arguments: list[str], program: str) -> int:
    quiet, verbose = (option in arguments for option in ("--quiet", "--verbose"))  # of every command
    words = [word for word in arguments if word not in ("--quiet", "--verbose")]
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(_parse_only(command))
    try:
        with one_line_errors(program):
            run_command = app.cli(
                args=words, prog=program, description=_DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,)
            )
        reuse_freed_memory()
        with verbosity(choose_verbosity(quiet, verbose), output_is_result=True):
            run_command()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"{program}: {explain_os_error(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if (cause := describe_memory_error(error)) is None:
            raise
        print(f"{program}: {cause}; free some, or use smaller images or batches", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return status_of(interrupt)
    return 0
