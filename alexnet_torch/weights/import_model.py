"""Builds a model from a weight file: finds its architecture, which images it reads, and its class names."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision.models import AlexNet_Weights

from alexnet_torch.errors import UserError
from alexnet_torch.files import read_lines
from alexnet_torch.model.alexnet import AlexNet, empty_network
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.devices import tower_devices
from alexnet_torch.model.presets import CAFFE, PRESETS
from alexnet_torch.model.tower import parameter_name
from alexnet_torch.weights.export_model import PixelNet
from alexnet_torch.weights.file_architecture import architecture_of, differences_at
from alexnet_torch.weights.file_network import ConvStep, FileNetwork
from alexnet_torch.weights.grouped import grouped_shapes, grouped_to_towers
from alexnet_torch.weights.input_convention import (
    INPUT_CONVENTIONS,
    from_our_images,
    mean_from_option,
    to_our_inputs,
    uniform_mean,
)
from alexnet_torch.weights.model_file import TrainedModel, build_model
from alexnet_torch.weights.weight_file import WeightFile, detect_inputs, read_weight_file, shape_mismatches


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about a file that does not describe its model; None means: detect it.

    Attributes:
        architecture: a preset's name.
        inputs: which images the weights read, a key of `INPUT_CONVENTIONS`.
        mean: the mean image, as `mean_from_option` takes it.
        image_size: side of the network's images, in pixels.
        key: which network of a checkpoint, if it contains several, as for `read_weight_file`.
    """

    architecture: str | None = None
    inputs: str | None = None
    mean: str | None = None
    image_size: int | None = None
    key: str | None = None


def choose_architecture(file: WeightFile, options: ImportOptions) -> tuple[Architecture, int]:
    """Returns the architecture of the weights, and its image size: by default 227 for Caffe's, else 224.

    That is the architecture of the file's network, if the file describes one; else the preset with the same shapes.

    Raises:
        UserError: no architecture fits; or several presets fit and nothing in the file decides.
    """
    name = options.architecture
    if name is not None and name not in PRESETS:
        raise UserError(f"--architecture {name}: no such architecture; choose from {', '.join(PRESETS)}")
    if file.network is not None:
        return _described_architecture(file, file.network, options)
    fitting: dict[str, tuple[Architecture, int]] = {}
    fewest: list[str] = []
    for preset in [PRESETS[name]] if name else PRESETS.values():
        default_size = 227 if preset.name == CAFFE.name else 224
        size = default_size if options.image_size is None else options.image_size
        if not preset.fits(size):
            continue
        shapes = grouped_shapes(preset, max(file.num_classes, preset.towers), size)
        mismatches = shape_mismatches(file, shapes, f"{preset.name} at {size} pixels")
        if not mismatches:
            fitting[preset.name] = preset, size
        elif not fewest or len(mismatches) < len(fewest):
            fewest = mismatches
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not fitting:
        reason = fewest[0] if fewest else f"{file.path}: no architecture reads images of {options.image_size} pixels"
        raise UserError(f"{reason}; name another file, --architecture or --image-size")
    raise UserError(
        f"{file.path}: its shapes fit {', '.join(fitting)}, which compute different things; "
        "choose one with --architecture"
    )


def _described_architecture(file: WeightFile, network: FileNetwork, options: ImportOptions) -> tuple[Architecture, int]:
    """Returns the architecture of the file's network, a preset if one computes the same, and its image size."""
    if network.image_size and options.image_size not in (None, network.image_size):
        reason = f"{file.path} reads {network.image_size} pixels"
        raise UserError(f"--image-size {options.image_size}: {reason}; leave it out")
    given = network.image_size or options.image_size
    problems: list[str] = []
    for size in _default_sizes(network) if given is None else (given,):
        try:
            described = architecture_of(network, size)
            target = PRESETS[options.architecture] if options.architecture else described
            shapes = grouped_shapes(target, max(file.num_classes, target.towers), size)
        except ValueError as error:
            problems.append(f"{file.path}: {error}")
            continue
        if mismatches := shape_mismatches(file, shapes, f"{options.architecture or 'its network'} at {size} pixels"):
            problems.append(mismatches[0])
            continue
        if options.architecture is None:
            return _equal_preset(described, shapes, file.num_classes, size) or described, size
        if different := differences_at(described, target, size):
            reason = f"differs from {target.name} at {size} pixels: {', '.join(different)}"
            raise UserError(f"{file.path}: {reason}; leave out --architecture")
        return target, size
    raise UserError(f"{problems[0]}; name another file, --architecture or --image-size")


def _default_sizes(network: FileNetwork) -> tuple[int, int]:
    """Returns the image sizes to try where the file says none: 227 first without padding before conv1, as in Caffe."""
    first = network.steps[0]
    return (227, 224) if isinstance(first, ConvStep) and first.padding == (0, 0, 0, 0) else (224, 227)


def _equal_preset(
    described: Architecture, shapes: Mapping[str, tuple[int, ...]], num_classes: int, size: int
) -> Architecture | None:
    """Returns the preset that computes what an architecture computes at this image size."""
    for preset in PRESETS.values():
        fits = preset.fits(size) and num_classes >= preset.towers
        if fits and grouped_shapes(preset, num_classes, size) == shapes and not differences_at(described, preset, size):
            return preset
    return None


def _choose_inputs(file: WeightFile, option: str | None) -> str:
    if option is not None and option not in INPUT_CONVENTIONS:
        raise UserError(f"--inputs {option}: no such images; choose from {', '.join(INPUT_CONVENTIONS)}")
    inputs = option or detect_inputs(file)
    if inputs is None:
        raise UserError(
            f"{file.path}: does not say which images it reads; choose with --inputs: rgb (0..255 minus the mean), "
            "caffe (the same in BGR) or imagenet (torchvision's)"
        )
    return inputs


def import_model(
    path: Path, options: ImportOptions, classes_file: Path | None = None
) -> tuple[TrainedModel, list[str]]:
    """Builds a model on the CPU from a weight file; it reads RGB images, 0..255, minus the mean image.

    Args:
        path: as for `read_weight_file`.
        options: what the file does not say.
        classes_file: file with one class name on each line, in the order of the logits.

    Returns:
        the model, and messages that say what was detected or assumed.

    Raises:
        UserError: as for `read_weight_file` and `choose_architecture`; or the file describes its model and there
            are `options`; or neither the file nor `options` say what is needed.
    """
    file = read_weight_file(path, options.key)
    if file.description is not None:
        return _import_described(file, options, classes_file)
    architecture, size = choose_architecture(file, options)
    inputs = _choose_inputs(file, options.inputs)
    if options.mean is not None:
        mean, mean_source = mean_from_option(options.mean, size), f"the mean {options.mean}"
    elif (colour := INPUT_CONVENTIONS[inputs].mean) is not None:
        mean = uniform_mean(colour, size)
        mean_source = "ImageNet's mean colour " + ",".join(f"{value:.2f}" for value in colour)
    else:
        raise UserError(f"{path}: does not say its images' mean; give it with --mean: R,G,B of 0..255, or a file")
    first = parameter_name(architecture.stage_names[0], "weight")
    weights = {**file.weights, first: to_our_inputs(file.weights[first], INPUT_CONVENTIONS[inputs])}
    classes, classes_source = _class_names(classes_file, file.num_classes)
    net = empty_network(architecture, len(classes), size, tower_devices(None, architecture.towers))
    net.load_state_dict(grouped_to_towers(weights, architecture.towers))
    model = TrainedModel(net.eval(), classes, mean)
    assumed = f"{path}: assumed to read {inputs} images, minus {mean_source}"
    images = torch.empty(1, 3, size, size).uniform_(-128, 128, generator=torch.Generator().manual_seed(0))
    checked = _check_graph(file, net, images, from_our_images(images, INPUT_CONVENTIONS[inputs]))
    return model, [*(f"{path}: {note}" for note in file.notes), _summary(path, net, classes_source), assumed, *checked]


def _check_graph(file: WeightFile, net: nn.Module, images: torch.Tensor, graph_images: torch.Tensor) -> list[str]:
    """Compares an ONNX file with the imported network on a random image; returns a message, [] for other files."""
    if file.path.suffix != ".onnx":
        return []
    if importlib.util.find_spec("onnxruntime") is None:
        return [f"{file.path}: not compared with the imported network; pip install onnxruntime, then import again"]
    from alexnet_torch.weights.onnx_check import check_with_onnxruntime  # not at the top: an optional package

    names = (file.network.images, file.network.logits) if file.network else None
    return [check_with_onnxruntime(file.path, names, net, images, graph_images)]


def _import_described(
    file: WeightFile, options: ImportOptions, classes_file: Path | None
) -> tuple[TrainedModel, list[str]]:
    assert file.description is not None
    if options != ImportOptions():
        raise UserError(f"{file.path}: describes its own model; leave out all options but --output and --classes")
    description = dict(file.description)
    try:
        classes_source = "from the file"
        if classes_file is not None:
            description["classes"], classes_source = _class_names(classes_file, len(description["classes"]))
            description.pop("names", None)  # those of the other classes
        towers = Architecture.from_dict(description["architecture"]).towers
        model = build_model(description, grouped_to_towers(file.weights, towers), ["cpu"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file.path}: its weights and its description do not fit ({error}); copy it again") from error
    shape = (1, 3, model.net.image_size, model.net.image_size)
    pixels = torch.empty(shape).uniform_(0, 255, generator=torch.Generator().manual_seed(0))
    checked = _check_graph(file, PixelNet(model).eval(), pixels, pixels)
    return model, [_summary(file.path, model.net, classes_source), *checked]


def _summary(path: Path, net: AlexNet, classes_source: str) -> str:
    size = f"{net.image_size} pixels, {net.num_classes} classes"
    return f"{path}: architecture {net.architecture.name} at {size} ({classes_source})"


def _class_names(file: Path | None, count: int) -> tuple[tuple[str, ...], str]:
    """Returns the class names, and where they come from."""
    imagenet: list[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    if file is None and count == len(imagenet):
        return tuple(imagenet), "assumed to be ImageNet's; --classes names others"
    if file is None:
        return tuple(f"class {index}" for index in range(count)), "numbered; --classes names them"
    names = tuple(read_lines(file, "--classes"))
    if len(names) != count:
        raise UserError(f"--classes {file}: has {len(names)} names, but the network has {count} classes; name all")
    return names, f"from {file}"
