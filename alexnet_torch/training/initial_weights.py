"""Starting from weights that there are, and keeping some of them as they are."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.parameter_names import stage_of
from alexnet_torch.model.presets import CAFFE, TORCHVISION
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.weights.grouped import grouped_shapes, grouped_to_towers
from alexnet_torch.weights.input_convention import INPUT_CONVENTIONS, InputConvention, to_our_inputs
from alexnet_torch.weights.weight_file import WeightFile, detect_inputs, read_weight_file, shape_mismatches


def parse_stages(option: str, text: str | None, names: Sequence[str]) -> tuple[str, ...] | None:
    """The stages that an option names, in the network's order; None without the option.

    Args:
        option: for messages, such as "--freeze".
        text: stages and ranges of them, with commas: "conv1,conv2", "conv1..conv5" or both.
        names: all of the network's, first to last.

    Raises:
        UserError: there is no such stage, or a range is empty.
    """
    if text is None:
        return None
    chosen: set[str] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        last = last if dots else first
        if first not in names or last not in names:
            raise UserError(f"{option} {text}: {part.strip()!r} names no stage; there are {', '.join(names)}")
        within = names[names.index(first) : names.index(last) + 1]
        if not within:
            raise UserError(f"{option} {text}: {last} is before {first}; turn the range round")
        chosen |= set(within)
    return tuple(name for name in names if name in chosen)


def check_start_options(settings: Settings, architecture: Architecture) -> None:
    """Refuses what can be seen to be wrong before images are prepared, which may take an hour.

    Raises:
        UserError: --init names nothing, or --init-stages or --freeze a stage that is not there.
    """
    for option, text in (("--init-stages", settings.init_stages), ("--freeze", settings.freeze)):
        parse_stages(option, text, architecture.stage_names)
    if settings.init is not None and not settings.resume and not Path(settings.init).exists():
        raise UserError(f"--init {settings.init}: there is no such file; name a run's folder or a file of weights")


def freeze_stages(net: AlexNet, stages: Sequence[str]) -> None:
    """Takes stages out of training: without gradients, the optimiser leaves weights and velocities alone.

    Raises:
        UserError: no stage is left to learn.
    """
    if set(stages) == set(net.architecture.stage_names):
        raise UserError("--freeze: names all stages, which leaves nothing to learn; leave one out")
    for name, parameter in net.named_parameters():
        if stage_of(name) in stages:
            parameter.requires_grad_(False)


def load_initial_weights(net: AlexNet, settings: Settings) -> str:
    """The weights before a run's first step: those of --init, or as they were drawn. Says which, in words.

    Raises:
        UserError: as for `copy_weights`.
    """
    if settings.init is None:
        return "scratch"
    stages = parse_stages("--init-stages", settings.init_stages, net.architecture.stage_names)
    return copy_weights(net, settings.init, stages)


def copy_weights(net: AlexNet, source: str, stages: Sequence[str] | None = None) -> str:
    """Copies weights into a network.

    With all stages, the last one alone may differ, in its number of classes: it then stays as it was
    drawn. With some stages, those must fit and the others stay as they were drawn.

    Args:
        net: with its weights drawn.
        source: a run's folder, or a file that `read_weight_file` reads.
        stages: those to copy; None for all.

    Returns:
        what was copied and what was not, in words; and what the weights' own network, if anything tells which that
        is, computes otherwise, as Caffe's does, which normalises across towers.

    Raises:
        UserError: a tensor does not fit, or nothing tells what images the file's weights read.
    """
    file, names = read_weight_file(Path(source)), net.architecture.stage_names
    if stages is None:
        stages, said = _but_other_classes(file, net)
        unknown = set(names) - set(stages)  # what else the file has, shape_mismatches names
    else:
        said = f"; drawn anew: {', '.join(name for name in names if name not in stages)}"
        unknown = {stage_of(name) for name in file.weights} - set(stages)
    copied = {name: value for name, value in file.weights.items() if stage_of(name) not in unknown}
    shapes = grouped_shapes(net.architecture, net.num_classes, net.image_size)
    wanted = {name: shape for name, shape in shapes.items() if stage_of(name) in stages}
    if wrong := shape_mismatches(replace(file, weights=copied), wanted, "the network to train"):
        raise UserError(f"--init: {wrong[0]}; name other weights, or with --init-stages the stages that fit")
    theirs = _architecture(file)
    first = f"{names[0]}.weight"
    if first in copied:
        scale = (theirs.input_scale if theirs else 1.0) / net.architecture.input_scale
        copied[first] = to_our_inputs(copied[first], _inputs(file)) * scale
    net.load_full_parameters(grouped_to_towers(copied, net.architecture.towers))
    unlike = list(_differences(theirs, net.architecture, stages)) if theirs else []
    warned = f"; the network that they were trained in computes otherwise: {', '.join(unlike)}" if unlike else ""
    return f"the weights of {source}: {', '.join(stages)}{said}{warned}"


def _but_other_classes(file: WeightFile, net: AlexNet) -> tuple[Sequence[str], str]:
    """The stages to copy of all, and why one is left out."""
    *before, last = net.architecture.stage_names
    theirs = file.weights.get(f"{last}.bias")
    if theirs is None or len(theirs) == net.num_classes:
        return (*before, last), ""
    return before, f"; {last} is drawn anew, for {net.num_classes} classes in place of {len(theirs)}"


def _architecture(file: WeightFile) -> Architecture | None:
    """The network that the weights are of; None where nothing tells."""
    if file.description is None:
        return {"caffe": CAFFE, "imagenet": TORCHVISION}.get(detect_inputs(file) or "")
    try:
        return Architecture.from_dict(file.description["architecture"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"--init {file.path}: its description is damaged ({error}); name another") from error


def _differences(theirs: Architecture, ours: Architecture, stages: Sequence[str]) -> Iterator[str]:
    """What two networks compute differently with the same weights of some stages, such as "norm.k 1.0 for 2.0"."""
    one, other = theirs.computation_only(), ours.computation_only()
    yield from _differing("", one, other)
    stage_of = {stage.name: stage for stage in other.stages}
    for stage in one.stages:
        if stage.name in stages:
            yield from _differing(f"{stage.name}.", stage, stage_of[stage.name])


def _differing(owner: str, theirs: Any, ours: Any) -> Iterator[str]:
    """Field by field, but for stages and what has shown in the weights' shapes."""
    for field in fields(theirs):
        one, other = getattr(theirs, field.name), getattr(ours, field.name)
        if is_dataclass(one):
            yield from _differing(f"{owner}{field.name}.", one, other)
        elif one != other and field.name not in ("convs", "linears", "towers", "channels", "width"):
            yield f"{owner}{field.name} {one} for {other}"


def _inputs(file: WeightFile) -> InputConvention:
    kind = detect_inputs(file)
    if kind is None:
        raise UserError(
            f"--init {file.path}: nothing tells what images its weights read; make it a run first, with "
            "python -m alexnet_torch import, and name that"
        )
    return INPUT_CONVENTIONS[kind]
