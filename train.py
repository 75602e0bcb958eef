"""Trains AlexNet, in two towers, on a folder of images.

    python train.py --data imagenet/                                 one device, or two GPUs if visible
    python train.py --data imagenet/ --devices cuda:0,cuda:1         one tower on each, as in the paper
    torchrun --nproc_per_node=2 train.py --data imagenet/ --output runs/mine --split ranks
                                                                     a process for each tower
    torchrun --nproc_per_node=8 train.py --data imagenet/ --output runs/mine
                                                                     eight slices of each batch
    torchrun --nnodes=4 --nproc_per_node=8 --max-restarts=3 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500
        train.py --data imagenet/ --output runs/mine                 on each of four machines
    python train.py --output runs/mine --resume                      go on with a run that was stopped
    python train.py --data photos/ --init runs/imagenet              start from a run's weights, or a file's

A run starts from its own checkpoint with --resume, else from the weights of --init, else from weights
that it draws.

All options: python train.py --help. Exit status: 0 done; 1 training failed; 2 the input was wrong;
130 or 143 stopped by SIGINT or SIGTERM after saving.
"""

import sys
from typing import Any

from alexnet_torch.distributed.world import World
from alexnet_torch.errors import OtherRankFailed, RankLost, TrainingError, UserError
from alexnet_torch.malloc import keep_freed
from alexnet_torch.recipes.command_line import parse


def main() -> int:
    """Parses, builds, trains; returns the exit status."""
    keep_freed()
    world = World.from_environment()
    try:
        given = parse()
        if (world.size > 1 or world.torchrun) and "output" not in given:
            raise UserError("--output: name the run's folder under torchrun, whose restarts would not find it else")
    except UserError as error:
        if world.local_rank == 0:  # the other processes of the machine have the same to say
            print(f"train.py: {error}", file=sys.stderr)
        return 2
    try:
        return run(given, world)
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except OtherRankFailed as error:  # where it is told
        return error.status
    except KeyboardInterrupt:  # before training, which saves first: see trainer.StopSignal
        if world.local_rank == 0:
            print("train.py: stopped before training; the cache goes on where it was next time", file=sys.stderr)
        return 130


def run(given: dict[str, Any], world: World) -> int:
    """Trains what the options name, as one of the processes; returns the exit status."""
    # not at the top: torch takes seconds that --help and mistakes in the options can do without
    from alexnet_torch.distributed.ranks import Ranks
    from alexnet_torch.training.launch import build
    from alexnet_torch.training.stop_signal import Interrupted

    ranks = Ranks(world)
    message: str | None
    try:
        build(given, ranks).fit()
        return 0
    except Interrupted as stopped:
        status, message = stopped.status, str(stopped) if ranks.is_main else None
    except RankLost as lost:
        status, message = 1, ranks.describe_missing(lost)
    except TrainingError as error:
        status, message = 1, str(error) if ranks.is_main else None
    finally:
        ranks.close()
    if message:
        print(f"train.py: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
