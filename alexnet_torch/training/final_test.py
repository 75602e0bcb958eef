"""The test of a run's best weights, as in the paper: each rank tests its part of the images."""

from pathlib import Path

from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.evaluation.evaluate import ShouldStop, evaluate_models
from alexnet_torch.evaluation.metrics import EnsembleResult
from alexnet_torch.evaluation.multi_crop import default_num_crops
from alexnet_torch.model.alexnet import AlexNet, empty_network
from alexnet_torch.training.run_model import run_model
from alexnet_torch.weights.model_file import read_model_files


def test_best(
    folder: Path, net: AlexNet, prepared: PreparedImages, mirror: bool, ranks: Ranks, should_stop: ShouldStop
) -> dict[int, EnsembleResult] | None:
    """Tests a run's model.pt with the centre crop, and with the paper's ten crops, or five without mirror images.

    Args:
        folder: the run's, which only the main rank reads.
        net: a network of the same architecture, in the run's placement.
        mirror: whether a mirror image is of the same class.
        should_stop: called before each batch, by all ranks together.

    Returns as `evaluate_models`.
    """
    towers, devices = net.architecture.towers, net.devices
    own_devices = devices if len(devices) == towers else devices[:1] * towers
    full_net = empty_network(net.architecture, net.num_classes, net.image_size, own_devices)
    full_net.load_state_dict(ranks.read_on_main(lambda: read_model_files(folder)[1]))
    model = run_model(full_net.eval(), prepared, mirror)
    by_side, crops, sum_counts = {prepared.side: prepared}, default_num_crops([model]), ranks.collectives.sum_over_ranks
    slices, workers = (ranks.world.rank, ranks.world.size), available_cores(ranks.world.local_size)
    return evaluate_models([model], by_side, crops, 64, should_stop, slices, sum_counts, workers)
