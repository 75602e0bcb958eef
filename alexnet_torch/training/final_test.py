"""The end of a run: the test of its best weights, as in the paper, and the page about it."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from alexnet_torch.data.workers import available_cores
from alexnet_torch.evaluation.scoring import Tested, default_num_crops, score_validation_images
from alexnet_torch.model.alexnet import empty_network
from alexnet_torch.weights.model_file import read_model_files

if TYPE_CHECKING:
    from alexnet_torch.training.trainer import Trainer

logger = logging.getLogger(__name__)


def test_best(trainer: "Trainer") -> Tested | None:
    """Tests model.pt with the centre crop, and with the paper's ten crops, or five without mirror images.

    Each rank tests its part of the images, with a network of its own. Returns None if a signal stopped the test.
    """
    net, ranks = trainer.net, trainer.ranks
    towers, devices = net.architecture.towers, net.devices
    own_devices = devices if len(devices) == towers else devices[:1] * towers
    full_net = empty_network(net.architecture, net.num_classes, net.image_size, own_devices).eval()
    full_net.load_state_dict(ranks.read_on_main(lambda: read_model_files(trainer.output)[1]))
    model, world = replace(trainer.model, net=full_net), ranks.world
    slices, workers, crops = (world.rank, world.size), available_cores(world.local_size), default_num_crops([model])
    sum_counts, should_stop = ranks.sum_over_ranks, trainer.stop_requested
    return score_validation_images(model, trainer.prepared, crops, should_stop, slices, sum_counts, workers)


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
