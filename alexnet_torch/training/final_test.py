"""The end of a run: the test of its best weights, as in the paper, and the page about it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.workers import available_cores
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.evaluation.scoring import ShouldStop, Tested, default_num_crops, score_validation_images
from alexnet_torch.model.alexnet import AlexNet, empty_network
from alexnet_torch.weights.model_file import TrainedModel, read_model_files

if TYPE_CHECKING:
    from alexnet_torch.training.trainer import Trainer

logger = logging.getLogger(__name__)


def test_best(
    folder: Path, net: AlexNet, prepared: PreparedImages, mirror: bool, ranks: Ranks, should_stop: ShouldStop
) -> Tested | None:
    """Tests a run's model.pt with the centre crop, and with the paper's ten crops, or five without mirror images.

    Each rank tests its part of the images, with a network of its own.

    Args:
        folder: the run's, which only the main rank reads.
        net: a network of the same architecture, in the run's placement.
        mirror: whether a mirror image is of the same class.
        should_stop: called before each batch, by all ranks together; the result is None if it returns True.
    """
    towers, devices = net.architecture.towers, net.devices
    own_devices = devices if len(devices) == towers else devices[:1] * towers
    full_net = empty_network(net.architecture, net.num_classes, net.image_size, own_devices)
    full_net.load_state_dict(ranks.read_on_main(lambda: read_model_files(folder)[1]))
    model = TrainedModel(full_net.eval(), prepared.classes, prepared.mean, mirror, prepared.names)
    slices, workers = (ranks.world.rank, ranks.world.size), available_cores(ranks.world.local_size)
    crops, sum_counts = default_num_crops([model]), ranks.collectives.sum_over_ranks
    return score_validation_images(model, prepared, crops, should_stop, slices, sum_counts, workers)


def write_page(trainer: "Trainer") -> None:
    """Writes the page about a run that is complete, on the main rank; without effect on the run if that fails."""
    if not trainer.ranks.world.is_main or trainer.tested is None:
        return
    try:  # here, not at the top: matplotlib takes a second to import, and may not be able to
        from alexnet_torch.evaluation.report_page import write_report

        path = write_report(trainer.output, trainer.tested.model, trainer.prepared, tested=trainer.tested)
        print(f"the page about the run: {path}")
    except Exception as error:  # whatever it is: the run is complete and saved, and must not end as a failure
        later = f"python -m alexnet_torch report {trainer.output} writes it"
        logger.warning("the page about the run could not be written (%r); %s", error, later)
