"""Reads every weight file: a run's folder, PyTorch's, safetensors, ONNX and Caffe's; --init and import use it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from alexnet_torch.data.sources.classes import same_names
from alexnet_torch.errors import UserError
from alexnet_torch.files import importing, read_lines, reading
from alexnet_torch.model.alexnet import AlexNet, empty_network
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.exchange import tower_devices
from alexnet_torch.model.presets import PRESETS, TORCHVISION
from alexnet_torch.model.tower import stage_of
from alexnet_torch.run_folder import CHECKPOINT_PARTS, MODEL_DESCRIPTION, MODEL_WEIGHTS
from alexnet_torch.weights import caffe, model_file, state_dicts
from alexnet_torch.weights.inputs import INPUT_CONVENTIONS, mean_from_option, mean_of_colour
from alexnet_torch.weights.model_file import TrainedModel
from alexnet_torch.weights.state_dicts import CONV1


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file; None where the file does not determine it."""

    path: Path  # of the file, or of a run's folder
    weights: dict[str, Tensor]  # grouped layout, float32
    names_in_file: dict[str, str]  # for each key of `weights`
    description: dict[str, Any] | None = None  # as in model.json
    inputs: str | None = None  # which images the weights read, a key of INPUT_CONVENTIONS
    architecture: Architecture | None = None
    image_size: int | None = None
    notes: tuple[str, ...] = ()  # what was read, for messages

    @property
    def num_classes(self) -> int:
        return next((len(value) for value in reversed(self.weights.values()) if value.ndim == 2), 0)

    def mismatches(self, shapes: Mapping[str, tuple[int, ...]], network: str) -> list[str]:
        messages = []
        for name, shape in shapes.items():
            if name not in self.weights:
                messages.append(f"{self.path} has no {name}, which {network} has: {shape}")
            elif (found := tuple(self.weights[name].shape)) != shape:
                messages.append(f"{self.path}: {self.names_in_file[name]} is {found}; in {network} it is {shape}")
        unexpected = [self.names_in_file[name] for name in self.weights if name not in shapes]
        return messages + [f"{self.path}: {name} is not in {network}" for name in unexpected]


def read_weight_file(path: Path, key: str | None = None, image_size: int | None = None) -> WeightFile:
    """Reads a file in any format; `key` chooses a network of several, `image_size` is for .onnx that leaves it open."""
    if not path.exists():
        raise UserError(f"{path}: no such file; name a weight file or a run's folder")
    try:
        file = _read(path, key, image_size)
    except ValueError as error:
        raise UserError(f"{path}: {error}; name an AlexNet weight file") from error
    model_file.require_finite(path, file.weights)
    return file


def _read(path: Path, key: str | None, image_size: int | None) -> WeightFile:
    if path.is_dir() or (path.name == MODEL_WEIGHTS and path.with_name(MODEL_DESCRIPTION).exists()):
        description, state = model_file.read_model_files(path if path.is_dir() else path.parent)
        return from_state(path, state, description)
    if path.suffix == ".caffemodel":
        state, architecture = caffe.read_network(path)
        return replace(from_state(path, state), inputs="caffe", architecture=architecture)
    if path.suffix == ".onnx":
        with importing(path):
            from alexnet_torch.weights.onnx import read_onnx  # here: optional packages
        return read_onnx(path, image_size)
    if path.suffix == ".safetensors":
        state, own_description = model_file.read_safetensors(path)
        if own_description is not None:
            return from_state(path, state, own_description)
        # the file sorts names as text, features.10 before features.3
        by_number = sorted(state, key=lambda name: [part.zfill(9) for part in re.split(r"(\d+)", name)])
        content: object = {name: state[name] for name in by_number}
    else:
        with reading(path, "copy it again, or name a weight file"):
            content = state_dicts.load_torch(path)
    if isinstance(content, dict) and set(content) == CHECKPOINT_PARTS:
        raise UserError(f"{path}: is a run's checkpoint, which has no mean image or class names; name the run's folder")
    found_key, state, others = state_dicts.find_network(path, content, key)
    note = f"read {found_key or 'the network'}"
    if others:
        note += f" without {len(others)} other tensors: {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}"
    return replace(from_state(path, state), notes=(note,) if others or found_key else ())


def from_state(path: Path, state: Mapping[str, Tensor], description: dict[str, Any] | None = None) -> WeightFile:
    """Returns the content of a state dict, of this package's names or of an AlexNet's by order."""
    if state_dicts.has_towers(state):
        with reading(path, "copy it again"):
            towers = {state_dicts.without_wrappers(name): value.float() for name, value in state.items()}
            weights = state_dicts.towers_to_grouped(towers)
            architecture = Architecture.from_dict(description["architecture"]) if description is not None else None
        return WeightFile(path, weights, {name: name for name in weights}, description, "rgb", architecture)
    names = state_dicts.layers_by_stage(state)
    file = WeightFile(path, {name: state[own].float() for name, own in names.items()}, names)
    # under this package's names the shapes tell nothing: a recipe may scale the images
    has_torchvisions_names = state_dicts.without_wrappers(names.get(CONV1, "")) == "features.0.weight"
    if has_torchvisions_names and not file.mismatches(
        state_dicts.grouped_shapes(TORCHVISION, max(file.num_classes, 1), 224), ""
    ):
        return replace(file, inputs="imagenet", architecture=TORCHVISION)
    return file


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
    shapes = state_dicts.grouped_shapes(net.architecture, net.num_classes, net.image_size)
    expected = {name: shape for name, shape in shapes.items() if stage_of(name) in stages}
    if mismatches := replace(file, weights=copied).mismatches(expected, "the network to train"):
        raise UserError(f"--init: {mismatches[0]}; name other weights, or with --init-stages the stages that fit")
    if first_weight in copied:
        if file.inputs is None:
            fix = "make a run of it with python -m alexnet_torch import, and name that run"
            raise UserError(f"--init {source}: does not say which images its weights read; {fix}")
        scale = (file.architecture.input_scale if file.architecture else 1.0) / net.architecture.input_scale
        copied[first_weight] = INPUT_CONVENTIONS[file.inputs].to_ours(copied[first_weight]) * scale
    net.load_full_parameters(state_dicts.grouped_to_towers(copied, net.architecture.towers))
    different = state_dicts.differences(file.architecture, net.architecture, stages) if file.architecture else []
    warning = f"; they were trained in a network with {', '.join(different)}" if different else ""
    part = "".join(f" ({note})" for note in file.notes)
    return f"the weights of {source}{part}: {', '.join(stages)}{random}{warning}"


def import_model(
    path: Path,
    classes_file: Path | None = None,
    architecture: str | None = None,
    inputs: str | None = None,
    mean: str | None = None,
    image_size: int | None = None,
    key: str | None = None,
) -> tuple[TrainedModel, list[str]]:
    """Returns a model on the CPU of a file and the command's options, None to detect, and lines on what it assumed."""
    for option, name, known in (("--architecture", architecture, PRESETS), ("--inputs", inputs, INPUT_CONVENTIONS)):
        if name is not None and name not in known:
            raise UserError(f"{option} {name}: there is no such one; choose from {', '.join(known)}")
    file = read_weight_file(path, key, image_size)
    classes, source = _class_names(classes_file, file.num_classes)
    notes = [f"{path}: {note}" for note in file.notes]
    if file.description is not None:
        if any(option is not None for option in (architecture, inputs, mean, image_size, key)):
            raise UserError(f"{path}: describes its own model; leave out all options but --output and --classes")
        description = {**file.description, "classes": classes, "names": ()}
        if classes_file is None:
            description, source = file.description, "from the file"
        assert file.architecture is not None
        towers = state_dicts.grouped_to_towers(file.weights, file.architecture.towers)
        model = model_file.build_model(path, description, towers, ["cpu"])
    else:
        preset, size = _choose_architecture(file, architecture, image_size)
        inputs = inputs or file.inputs
        if inputs is None:
            choices = "rgb (0..255 minus the mean), caffe (the same in BGR) or imagenet (torchvision's)"
            raise UserError(f"{path}: does not say which images it reads; choose with --inputs: {choices}")
        convention = INPUT_CONVENTIONS[inputs]
        if mean is not None:
            mean_image, mean_source = mean_from_option(mean, size), f"the mean {mean}"
        elif convention.mean is not None:
            mean_image = mean_of_colour(convention.mean, size)
            mean_source = "ImageNet's mean colour " + ",".join(f"{value:.2f}" for value in convention.mean)
        else:
            raise UserError(f"{path}: does not say its images' mean; give it with --mean: R,G,B of 0..255, or a file")
        weights = {**file.weights, CONV1: convention.to_ours(file.weights[CONV1])}
        net = empty_network(preset, len(classes), size, tower_devices("cpu", preset.towers))
        net.load_state_dict(state_dicts.grouped_to_towers(weights, preset.towers))
        model = TrainedModel(net.eval(), classes, mean_image)
        notes.append(f"{path}: assumed to read {inputs} images, minus {mean_source}")
    network = f"{model.net.architecture.name} at {model.net.image_size} pixels, {len(model.classes)} classes ({source})"
    return model, [f"{path}: architecture {network}", *notes]


def _choose_architecture(file: WeightFile, name: str | None, image_size: int | None) -> tuple[Architecture, int]:
    """Returns the file's architecture, or the one preset with its shapes, and its image size."""
    known = file.architecture
    own = {"--architecture": (name, known and known.name), "--image-size": (image_size, file.image_size)}
    for option, (given, of_file) in own.items():
        if given and of_file and given != of_file:
            raise UserError(f"{option} {given}: that of {file.path} is {of_file}; leave out {option}")
    fitting, problems = [], [[f"{file.path}: no architecture reads images of {image_size} pixels"]]
    for net in [known] if known else [PRESETS[name]] if name else PRESETS.values():
        # Caffe's networks, without padding before conv1, are meant for 227 pixels
        size = image_size if image_size is not None else file.image_size or (224 if any(net.convs[0].padding) else 227)
        if net.fits(size):
            shapes = state_dicts.grouped_shapes(net, max(file.num_classes, net.towers), size)
            if mismatches := file.mismatches(shapes, f"{net.name} at {size} pixels"):
                problems.append(mismatches)
            else:
                fitting.append((net, size))
    if not fitting:
        fewest = min(problems[1:], key=len, default=problems[0])
        raise UserError(f"{fewest[0]}; name another file, --architecture or --image-size")
    if len(fitting) > 1:
        which = f"{', '.join(net.name for net, _ in fitting)}, which compute different things"
        raise UserError(f"{file.path}: its shapes fit {which}; choose one with --architecture")
    return fitting[0]


def _class_names(file: Path | None, count: int) -> tuple[tuple[str, ...], str]:
    if file is not None:
        names = tuple(read_lines(file, "--classes"))
        if len(names) != count:
            raise UserError(f"--classes {file}: has {len(names)} names, but the network has {count} classes; name all")
        return names, f"from {file}"
    from torchvision.models import AlexNet_Weights  # takes a second, which --init does not need

    imagenet: list[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    if count == len(imagenet):
        return tuple(imagenet), "assumed to be ImageNet's; --classes names others"
    return tuple(f"class {index}" for index in range(count)), "numbered; --classes names them"
