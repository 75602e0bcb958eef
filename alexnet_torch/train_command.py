"""The command line of training, as train.py and as the command `train` of the installed program."""

import sys
from typing import Any

from alexnet_torch.distributed.world import World
from alexnet_torch.errors import OtherRankFailed, RankLost, RunError, UserError, describe_memory_error, status_of
from alexnet_torch.files import explain_os_error
from alexnet_torch.malloc import reuse_freed_memory
from alexnet_torch.output_streams import guarded_streams
from alexnet_torch.recipes.command_line import parse
from alexnet_torch.training.stop_signal import StopSignal
from alexnet_torch.verbosity import choose_verbosity, verbosity

# a run keeps its batch size: --resume refuses another
_MORE_MEMORY = (
    "free some, then start it again, with --resume if it has done steps; "
    "or start a run in another --output with a smaller --batch-size"
)


def main(arguments: list[str] | None = None, program: str = "train.py") -> int:
    """Parses the options and trains; if the run ends early, prints why. Returns the exit status.

    Args:
        arguments: the options; sys.argv's by default.
        program: what the user started, for messages.
    """
    reuse_freed_memory()
    with guarded_streams(output_is_result=False):
        try:
            world = World.from_environment()
        except UserError as error:
            print(f"{program}: {error}", file=sys.stderr)
            return error.exit_status
        # a rank that waits in torch could not act on a signal: only the one that builds, and says so, handles it
        with StopSignal(raise_early=world.local_rank == 0) as stop:
            return run(arguments, program, world, stop)


def run(arguments: list[str] | None, program: str, world: World, stop: StopSignal) -> int:
    """Trains as one of the run's ranks; if the run ends early, prints why. Returns the exit status."""
    try:
        given = parse_options(arguments, program, world)
        level = choose_verbosity(given.pop("quiet", False), given.pop("verbose", False))
        with verbosity(level, output_is_result=False):
            train(given, world, stop)
    except RunError as error:
        if error.printed_by == "this rank" or (error.printed_by == "main rank" and world.rank == 0):
            print(f"{program}: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        rank = f"rank {world.rank}: " if world.size > 1 else ""
        print(f"{program}: {rank}{explain_os_error(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if (cause := describe_memory_error(error)) is None:
            raise
        rank = f"rank {world.rank}: " if world.size > 1 else ""
        print(f"{program}: {rank}{cause}; {_MORE_MEMORY}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:  # before training, which saves first: see StopSignal
        if world.local_rank == 0:
            print(f"{program}: interrupted before training; the same command continues", file=sys.stderr)
        return status_of(interrupt)
    return 0


def parse_options(arguments: list[str] | None, program: str, world: World) -> dict[str, Any]:
    """Returns the options given on the command line. On an error, local rank 0 raises it for its machine."""
    try:
        given = parse(arguments, program)
        if (world.size > 1 or world.torchrun) and "output" not in given:
            raise UserError("--output: name the run's folder under torchrun: a restart must find the same folder")
    except UserError as error:
        if world.local_rank == 0:
            raise
        raise OtherRankFailed(error.exit_status) from error
    return given


def train(given: dict[str, Any], world: World, stop: StopSignal) -> None:
    """Trains as the options say, as one of the run's ranks."""
    # not at the top: torch takes seconds to import, which --help and errors in the options do not need
    from alexnet_torch.distributed.ranks import Ranks
    from alexnet_torch.training.launch import launch

    ranks = Ranks(world)
    try:
        launch(given, ranks, stop)
    except RankLost as lost:
        message = ranks.describe_missing(lost)  # on one of the ranks that are left
        raise (RunError(message) if message else OtherRankFailed(lost.exit_status)) from lost
    finally:
        ranks.close()
