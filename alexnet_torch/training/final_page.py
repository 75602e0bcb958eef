"""The page about a run, written when it has ended."""

import sys

from alexnet_torch.training.trainer import Trainer


def write_page(trainer: Trainer) -> None:
    """Writes the page about a run that is complete, on the main rank; without effect on the run if that fails.

    Args:
        trainer: of the run, after `fit`.
    """
    if not trainer.ranks.world.is_main or trainer.state.best_step is None:
        return
    # not at the top: matplotlib takes a second to import, and only a run's end needs it
    from alexnet_torch.evaluation.report_page.write import write_report
    from alexnet_torch.weights.model_file import load_model

    net, output, later = trainer.net, trainer.output, f"python -m alexnet_torch report {trainer.output} writes it"
    devices = net.devices if len(net.devices) == net.architecture.towers else net.devices[:1]
    try:
        model = load_model(output, [str(device) for device in devices])
        path = write_report(output, model, trainer.prepared, should_stop=lambda: trainer.stop.signal is not None)
    except Exception as error:  # whatever it is: the run is complete and saved, and must not end as a failure
        print(f"the page about the run could not be written ({error!r}); {later}", file=sys.stderr)
        return
    print(f"the page about the run: {path}" if path else f"the page about the run was not written: stopped; {later}")
