"""Builds a model from a weight file: finds its architecture, which images it reads, and its class names."""

from dataclasses import dataclass
from pathlib import Path

from torchvision.models import AlexNet_Weights

from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.parameter_names import parameter_name
from alexnet_torch.model.presets import CAFFE, PRESETS
from alexnet_torch.weights.grouped import grouped_shapes, grouped_to_towers
from alexnet_torch.weights.input_convention import INPUT_CONVENTIONS, mean_from_option, to_our_inputs, uniform_mean
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
    """

    architecture: str | None = None
    inputs: str | None = None
    mean: str | None = None
    image_size: int | None = None


def choose_architecture(file: WeightFile, options: ImportOptions) -> tuple[Architecture, int]:
    """Returns the preset whose shapes the weights have, and its image size: by default 227 for Caffe's, else 224.

    Raises:
        UserError: no preset fits, or several fit and nothing in the file decides.
    """
    name = options.architecture
    if name is not None and name not in PRESETS:
        raise UserError(f"--architecture {name}: no such architecture; choose from {', '.join(PRESETS)}")
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
    if file.inputs == "caffe" and CAFFE.name in fitting:
        return fitting[CAFFE.name]
    raise UserError(
        f"{file.path}: its shapes fit {', '.join(fitting)}, which compute different things; "
        "choose one with --architecture"
    )


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
    file = read_weight_file(path)
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
    net = AlexNet(architecture, len(classes), size, seed=0)
    net.load_state_dict(grouped_to_towers(weights, architecture.towers))
    model = TrainedModel(net.eval(), classes, mean)
    return model, [_summary(path, net, classes_source), f"{path}: assumed to read {inputs} images, minus {mean_source}"]


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
        towers = Architecture.from_dict(description["architecture"]).towers
        model = build_model(description, grouped_to_towers(file.weights, towers), ["cpu"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file.path}: its weights and its description do not fit ({error}); copy it again") from error
    return model, [_summary(file.path, model.net, classes_source)]


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
    try:
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {file}: cannot be read ({error}); name a text file") from error
    if len(names) != count:
        raise UserError(f"--classes {file}: has {len(names)} names, but the network has {count} classes; name all")
    return names, f"from {file}"
