"""Writes a run's page into its folder, and its figures into TensorBoard."""

from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.evaluation.figures.curves import History, confusion_figure, read_history, wrong_images_figure
from alexnet_torch.evaluation.figures.style import render
from alexnet_torch.evaluation.guesses import Guesses, guess_validation_images
from alexnet_torch.evaluation.report_page.page import RunContent, run_page
from alexnet_torch.evaluation.runs import read_config
from alexnet_torch.files import atomic_write
from alexnet_torch.run_folder import REPORT, TENSORBOARD
from alexnet_torch.weights.model_file import TrainedModel

_EVENTS = "report"  # a folder beside the run's events: TensorBoard follows only the newest file of a folder


def write_report(
    run: Path,
    model: TrainedModel,
    prepared: PreparedImages | None,
    output: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Writes a run's page, and the confusion matrix and the worst images into its TensorBoard events.

    Args:
        run: the run's folder.
        model: the run's best weights.
        prepared: the images to test it on; without them the page says nothing about what it gets wrong.
        output: the page; RUN/report.html by default.
        should_stop: called for each batch.

    Returns:
        the page's file; None if `should_stop` said so, and nothing was written.

    Raises:
        UserError: config.json or metrics.jsonl is damaged.
        OSError: a file cannot be written.
    """
    guesses = guess_validation_images(model, prepared, should_stop) if prepared else None
    if prepared and not guesses:
        return None
    history = read_history(run)
    html = run_page(RunContent(run, read_config(run), history, model, guesses))
    path = output or run / REPORT
    atomic_write(path, lambda file: file.write(html.encode()))
    if guesses:
        _write_events(run / TENSORBOARD / _EVENTS, guesses, history)
    return path


def _write_events(folder: Path, guesses: Guesses, history: History | None) -> None:
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()
    step = history.best_step() if history else 0
    with SummaryWriter(str(folder)) as writer:
        matrix = render(confusion_figure(guesses.classes, guesses.confusion.counts))
        writer.add_image("val/confusion", matrix, step, dataformats="HWC")
        if guesses.worst:
            writer.add_image("val/worst_images", render(wrong_images_figure(guesses.worst)), step, dataformats="HWC")
