"""train.py, with the same options; prints the memory of its devices when it ends, under torchrun each process its own.

torchrun --nproc_per_node=2 -m benchmarks.gpu.measured_train --data photos/ --split ranks --output runs/towers
"""

import sys

import torch

import train
from benchmarks.gpu.commands import print_measured
from benchmarks.harness.measure import peak_memory_of

if __name__ == "__main__":
    status = train.main()
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    used = [name for name in gpus if torch.cuda.is_initialized() and torch.cuda.max_memory_allocated(name)]
    print_measured(gib=peak_memory_of(used or ["cpu"]))
    sys.exit(status)
