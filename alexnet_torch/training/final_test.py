"""The best weights of a run, tested as the paper tests: by every rank, each on its part of the images."""

from pathlib import Path

import torch
from torch import Tensor

from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.distributed import sharded_state as shards
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.evaluation.evaluate import ShouldStop, evaluate_models
from alexnet_torch.evaluation.metrics import EnsembleResult
from alexnet_torch.evaluation.multi_crop import default_num_crops
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.run_folder import MODEL_WEIGHTS
from alexnet_torch.weights.model_file import TrainedModel


def whole_net(net: AlexNet) -> AlexNet:
    """A network like another, all its towers in this process, with weights of its own."""
    devices = net.exchange.devices
    here = devices if len(devices) == net.architecture.towers else devices[:1]
    return AlexNet(net.architecture, net.num_classes, net.image_size, here, seed=0)


def cores_of(world: World) -> int:
    """The cores of this process: the processes of a machine share them."""
    return max(1, available_cores() // world.local_size)


def test_best(
    folder: Path, net: AlexNet, prepared: PreparedImages, mirror: bool, ranks: Ranks, stopped: ShouldStop
) -> dict[int, EnsembleResult] | None:
    """Tests a run's model.pt with the centre crop, and with the paper's ten or five.

    Args:
        folder: the run's, which the first rank alone reads.
        net: whose weights they are.
        prepared: the images.
        mirror: whether mirror images are of the same classes.
        ranks: the run's.
        stopped: asked before each batch, by all ranks together.

    Returns:
        as `evaluate_models`.
    """
    model = TrainedModel(whole_net(net), prepared.classes, prepared.mean, mirror)
    model.net.load_state_dict(_read(folder, ranks))
    model.net.eval()
    slices = ranks.world.rank, ranks.world.size
    crops, by_side = default_num_crops([model]), {prepared.side: prepared}
    return evaluate_models([model], by_side, crops, 64, stopped, slices, ranks.sum_over_ranks, cores_of(ranks.world))


def _read(folder: Path, ranks: Ranks) -> dict[str, Tensor]:
    """The weights, on all ranks."""
    weights: dict[str, Tensor] | None = None
    with ranks.main_only() as (first, _):
        if first:
            weights = torch.load(folder / MODEL_WEIGHTS, weights_only=True)
    if not ranks.is_single_process:
        packed = ranks.broadcast_bytes(shards.pack(weights) if weights else None)
        assert packed is not None  # the first rank has read them, or raised
        weights = weights or shards.unpack(packed)
    return weights or {}
