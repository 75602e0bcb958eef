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
128 plus its number if a signal stopped it, after saving (Ctrl-C: 130).
"""

import sys

from alexnet_torch.cli import train_main as main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
