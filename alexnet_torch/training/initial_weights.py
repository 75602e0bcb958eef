"""The weights before the first step, copied from a run or a weight file or random; which stages are frozen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexnet_torch.data.sources.classes import same_names
from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture, parse_stages
from alexnet_torch.model.tower import stage_of
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.weights.inputs import INPUT_CONVENTIONS
from alexnet_torch.weights.state_dicts import differences, grouped_shapes, grouped_to_towers
from alexnet_torch.weights.weight_file import read_weight_file


def check_start(settings: Settings, architecture: Architecture) -> None:
    for option, text in (("--init-stages", settings.init_stages), ("--freeze", settings.freeze)):
        parse_stages(option, text, architecture.stage_names)
    if settings.init is not None and not settings.resume and not Path(settings.init).exists():
        raise UserError(f"--init {settings.init}: no such file or folder; name a run's folder or a weight file")


def freeze_stages(net: AlexNet, text: str | None) -> str:
    stages = parse_stages("--freeze", text, net.architecture.stage_names) or ()
    if set(stages) == set(net.architecture.stage_names):
        raise UserError("--freeze: names all stages, so that nothing can learn; leave out at least one")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(stage_of(name) not in stages)
    return f"\nfrozen, their weights and biases do not change: {', '.join(stages)}" if stages else ""


def copy_weights(
    net: AlexNet, source: str | None, stages: Sequence[str] | None = None, classes: Sequence[str] | None = None
) -> str:
    """Copies weights of a run or file, of the given stages or all that fit the classes; returns a line about them."""
    if source is None:
        return "scratch"
    file, names = read_weight_file(Path(source), image_size=net.image_size), net.architecture.stage_names
    in_file, first_weight, last = {stage_of(name) for name in file.weights}, f"{names[0]}.weight", names[-1]
    if stages is not None:
        chosen, random = in_file & set(stages), f"; random weights: {', '.join(n for n in names if n not in stages)}"
    else:
        stages, chosen, random = names, in_file, ""  # mismatches() reports the file's unknown stages
        known, count = (file.description or {}).get("classes"), len(file.weights.get(f"{last}.bias", ()))
        if count not in (0, net.num_classes) or (classes and known and not same_names(known, classes)):
            stages, chosen = names[:-1], in_file - {last}
            instead = f"instead of {count}" if count != net.num_classes else f"that are not those of {source}"
            random = f"; {last} has random weights, for {net.num_classes} classes {instead}"
    copied = {name: value for name, value in file.weights.items() if stage_of(name) in chosen}
    shapes = grouped_shapes(net.architecture, net.num_classes, net.image_size)
    expected = {name: shape for name, shape in shapes.items() if stage_of(name) in stages}
    if mismatches := replace(file, weights=copied).mismatches(expected, "the network to train"):
        raise UserError(f"--init: {mismatches[0]}; name other weights, or with --init-stages the stages that fit")
    if first_weight in copied:
        if file.inputs is None:
            fix = "make a run of it with python -m alexnet_torch import, and name that run"
            raise UserError(f"--init {source}: does not say which images its weights read; {fix}")
        scale = (file.architecture.input_scale if file.architecture else 1.0) / net.architecture.input_scale
        copied[first_weight] = INPUT_CONVENTIONS[file.inputs].to_ours(copied[first_weight]) * scale
    net.load_full_parameters(grouped_to_towers(copied, net.architecture.towers))
    different = differences(file.architecture, net.architecture, stages) if file.architecture else []
    warning = f"; they were trained in a network with {', '.join(different)}" if different else ""
    part = "".join(f" ({note})" for note in file.notes)
    return f"the weights of {source}{part}: {', '.join(stages)}{random}{warning}"
