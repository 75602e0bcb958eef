"""Loss and errors on the validation images: of the network in training, and of trained models and their average."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.sources.class_names import same_names
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.metrics import EnsembleResult, EvalMetrics, EvalResult, SumCounts
from alexnet_torch.evaluation.multi_crop import log_mean_prob, predict_log_probs
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.weights.model_file import TrainedModel

ShouldStop = Callable[[], bool]


@torch.no_grad()
def evaluate(
    net: AlexNet,
    loader: Loader,
    mean: Tensor,
    should_stop: ShouldStop = lambda: False,
    sum_counts: SumCounts = lambda counts: counts,
) -> EvalResult | None:
    """Computes a network's loss and errors, in evaluation mode, with the centre crop.

    Args:
        net: its training mode is restored afterwards.
        loader: of the images.
        mean: (S, S, 3) float32 mean image, on the network's first device.
        should_stop: called before each batch; the evaluation stops if it returns True.
        sum_counts: adds up the counts of ranks that have different slices of each batch.

    Returns:
        the result, or None if the evaluation was stopped.
    """
    training = net.training
    net.eval()
    metrics = EvalMetrics()
    try:
        for batch in loader.epoch(0):
            if should_stop():
                return None
            logits = net(subtract_mean(batch.images.to(mean.device), batch.crops, mean))  # (N, classes)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # autocast may have 16 bits
            metrics.add(logits.log_softmax(dim=1), batch.labels.to(mean.device))
    finally:
        net.train(training)
    return metrics.result(sum_counts)


def evaluate_models(
    models: Sequence[TrainedModel],
    prepared: Mapping[int, PreparedImages],
    num_crops: int,
    batch_size: int = 64,
    should_stop: ShouldStop = lambda: False,
    slices: tuple[int, int] = (0, 1),
    sum_counts: SumCounts = lambda counts: counts,
    workers: int | None = None,
) -> dict[int, EnsembleResult] | None:
    """Computes the errors of each model, and of their average, on the validation images.

    All models evaluate a batch before the next one is read: an image is read once for all models that have the
    same image side, and memory holds the probabilities of one batch.

    Args:
        models: of any architecture and image size, with the same classes.
        prepared: the images, by the side of the models' mean images.
        num_crops: 1; or 5 or 10, which give the results of the centre crop, too.
        batch_size: images read together; each of their crops is one batch for a network.
        should_stop: called before each batch; the evaluation stops if it returns True.
        slices: index of this rank's slice of each batch, and number of slices.
        sum_counts: adds up the counts of all slices.
        workers: processes that decode images; one for each core by default.

    Returns:
        the results by the number of crops, or None if the evaluation was stopped.
    """
    loaders = {
        side: Loader(data, "val", side, batch_size, workers=workers, slices=slices) for side, data in prepared.items()
    }
    metrics = {n: [EvalMetrics() for _ in range(len(models) + 1)] for n in sorted({1, num_crops})}
    steps = next(iter(loaders.values())).batches_per_epoch
    epochs = zip(*(loader.epoch(0) for loader in loaders.values()), strict=True)
    for batches in tqdm(epochs, total=steps, unit="batch", disable=slices[0] > 0 or None, leave=False):
        if should_stop():
            return None
        by_side = dict(zip(loaders, batches, strict=True))
        predictions = [predict_log_probs(model, by_side[model.mean.shape[0]], num_crops) for model in models]
        for n, model_metrics in metrics.items():
            log_probs = [prediction[n] for prediction in predictions]
            for m, values in zip(model_metrics, [*log_probs, log_mean_prob(log_probs)], strict=True):
                m.add(values, batches[0].labels)
    results = {n: [m.result(sum_counts) for m in model_metrics] for n, model_metrics in metrics.items()}
    return {n: EnsembleResult(tuple(each), average) for n, (*each, average) in results.items()}


def check_same_classes(classes_by_source: Mapping[str, Sequence[str]]) -> None:
    """Checks that runs and folders, by their names, have the same classes in the same order.

    Raises:
        UserError: they differ; the message names two sources and a difference.
    """
    (first, first_classes), *others = classes_by_source.items()
    for other, classes in others:
        if same_names(classes, first_classes):
            continue
        difference = "they are in a different order"
        if missing := set(first_classes) - set(classes):
            difference = f"it lacks {min(missing)!r}"
        elif extra := set(classes) - set(first_classes):
            difference = f"it also has {min(extra)!r}"
        raise UserError(
            f"{other}: its classes differ from those of {first}: {difference}; name runs and images of the same classes"
        )
