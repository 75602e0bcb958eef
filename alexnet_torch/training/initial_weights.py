"""The weights before a run's first step: copied from a run or a weight file, or random; and which stages are frozen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture, parse_stages
from alexnet_torch.model.tower import stage_of
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.weights.grouped import differences, grouped_shapes, grouped_to_towers
from alexnet_torch.weights.inputs import INPUT_CONVENTIONS
from alexnet_torch.weights.weight_file import WeightFile, read_weight_file


def check_start(settings: Settings, architecture: Architecture) -> None:
    """Finds errors in --init, --init-stages and --freeze before images are prepared, which may take an hour.

    Raises:
        UserError: --init names no file, or --init-stages or --freeze a stage that does not exist.
    """
    for option, text in (("--init-stages", settings.init_stages), ("--freeze", settings.freeze)):
        parse_stages(option, text, architecture.stage_names)
    if settings.init is not None and not settings.resume and not Path(settings.init).exists():
        raise UserError(f"--init {settings.init}: no such file or folder; name a run's folder or a weight file")


def freeze_stages(net: AlexNet, stages: Sequence[str]) -> None:
    """Freezes stages: without gradients, the optimizer does not change their weights and velocities.

    Raises:
        UserError: all stages are frozen.
    """
    if set(stages) == set(net.architecture.stage_names):
        raise UserError("--freeze: names all stages, so that nothing can learn; leave out at least one")
    for name, parameter in net.named_parameters():
        if stage_of(name) in stages:
            parameter.requires_grad_(False)


def load_initial_weights(net: AlexNet, settings: Settings) -> str:
    """Copies the weights of --init, if given, into a network with random weights. Returns their description.

    Raises:
        UserError: as for `copy_weights`.
    """
    if settings.init is None:
        return "scratch"
    stages = parse_stages("--init-stages", settings.init_stages, net.architecture.stage_names)
    return copy_weights(net, settings.init, stages)


def copy_weights(net: AlexNet, source: str, stages: Sequence[str] | None = None) -> str:
    """Copies weights into a network.

    Args:
        net: with random weights.
        source: a run's folder, or a file that `read_weight_file` reads.
        stages: the stages to copy, which must fit; None for all, except the last one if it has another number of
            classes.

    Returns:
        a line for the user: the stages copied, those still random, and what the source's network, if known, computes
        differently, for example normalisation across towers in Caffe's.

    Raises:
        UserError: a tensor does not fit, or it is unknown which images the file's weights read.
    """
    file = read_weight_file(Path(source), image_size=net.image_size)
    names, first_weight = net.architecture.stage_names, f"{net.architecture.stage_names[0]}.weight"
    if stages is None:
        stages, still_random = _stages_with_same_classes(file, net)
        ignored = set(names) - set(stages)  # mismatches() reports the file's unknown stages
    else:
        still_random = f"; random weights: {', '.join(name for name in names if name not in stages)}"
        ignored = {stage_of(name) for name in file.weights} - set(stages)
    copied = {name: value for name, value in file.weights.items() if stage_of(name) not in ignored}
    shapes = grouped_shapes(net.architecture, net.num_classes, net.image_size)
    expected = {name: shape for name, shape in shapes.items() if stage_of(name) in stages}
    if mismatches := replace(file, weights=copied).mismatches(expected, "the network to train"):
        raise UserError(f"--init: {mismatches[0]}; name other weights, or with --init-stages the stages that fit")
    if first_weight in copied:
        if file.inputs is None:
            raise UserError(
                f"--init {source}: does not say which images its weights read; make a run of it with "
                "python -m alexnet_torch import, and name that run"
            )
        scale = (file.architecture.input_scale if file.architecture else 1.0) / net.architecture.input_scale
        copied[first_weight] = INPUT_CONVENTIONS[file.inputs].to_ours(copied[first_weight]) * scale
    net.load_full_parameters(grouped_to_towers(copied, net.architecture.towers))
    different = list(differences(file.architecture, net.architecture, stages)) if file.architecture else []
    warning = f"; they were trained in a network with {', '.join(different)}" if different else ""
    part = "".join(f" ({note})" for note in file.notes)
    return f"the weights of {source}{part}: {', '.join(stages)}{still_random}{warning}"


def _stages_with_same_classes(file: WeightFile, net: AlexNet) -> tuple[Sequence[str], str]:
    """Returns all stages, or without the last one if its classes differ, and a message about it."""
    *before, last = net.architecture.stage_names
    bias = file.weights.get(f"{last}.bias")
    if bias is None or len(bias) == net.num_classes:
        return (*before, last), ""
    return before, f"; {last} has random weights, for {net.num_classes} classes instead of {len(bias)}"
