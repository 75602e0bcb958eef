"""Trains AlexNet, in two towers, on a folder of images.

    python train.py --data imagenet/                                 one device, or two GPUs if visible
    python train.py --data imagenet/ --devices cuda:0,cuda:1         one tower on each, as in the paper
    torchrun --nproc_per_node=2 train.py --data imagenet/ --output runs/mine --split ranks
                                                                     a process for each tower
    torchrun --nproc_per_node=8 train.py --data imagenet/ --output runs/mine
                                                                     eight slices of each batch
    torchrun --nnodes=4 --nproc_per_node=8 --max-restarts=3 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500
        train.py --data imagenet/ --output runs/mine                 on each of four machines
    python train.py --output runs/mine --resume                      continue an interrupted run
    python train.py --data photos/ --init runs/imagenet              start from a run's weights, or a file's

A run starts from its own checkpoint with --resume, else from the weights of --init, else from random
weights.

All options: python train.py --help. Exit status: 0 done; 1 training failed; 2 the input was wrong;
130, 143 or 129 interrupted by SIGINT, SIGTERM or SIGHUP, after saving.
"""

import sys
from typing import Any

from alexnet_torch.distributed.world import World
from alexnet_torch.errors import OtherRankFailed, RankLost, RunError, UserError, status_of
from alexnet_torch.files import explain_os_error
from alexnet_torch.malloc import reuse_freed_memory
from alexnet_torch.output_streams import guarded_streams
from alexnet_torch.recipes.command_line import parse
from alexnet_torch.training.stop_signal import StopSignal


def main() -> int:
    """Parses the options and trains; if the run ends early, prints why. Returns the exit status."""
    reuse_freed_memory()
    with guarded_streams(output_is_result=False):
        try:
            world = World.from_environment()
        except UserError as error:
            print(f"train.py: {error}", file=sys.stderr)
            return error.exit_status
        # a rank that waits in torch could not act on a signal: only the one that builds, and says so, handles it
        with StopSignal(raise_early=world.local_rank == 0) as stop:
            return run(world, stop)


def run(world: World, stop: StopSignal) -> int:
    """Trains as one of the run's ranks; if the run ends early, prints why. Returns the exit status."""
    try:
        train(parse_options(world), world, stop)
    except RunError as error:
        if error.printed_by == "this rank" or (error.printed_by == "main rank" and world.rank == 0):
            print(f"train.py: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        rank = f"rank {world.rank}: " if world.size > 1 else ""
        print(f"train.py: {rank}{explain_os_error(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:  # before training, which saves first: see StopSignal
        if world.local_rank == 0:
            print("train.py: interrupted before training; the same command continues", file=sys.stderr)
        return status_of(interrupt)
    return 0


def parse_options(world: World) -> dict[str, Any]:
    """Returns the options given on the command line. On an error, local rank 0 raises it for its machine."""
    try:
        given = parse()
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


if __name__ == "__main__":
    sys.exit(main())
