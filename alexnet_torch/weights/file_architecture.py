"""The architecture of a network that a weight file describes.

Every constant of the file goes into the architecture, or is refused by the name of its node.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from alexnet_torch.model.architecture import PAPER, Activation, Architecture, Conv, Linear, Norm, Operation
from alexnet_torch.weights.file_network import (
    ActivationStep,
    AveragePoolStep,
    ConvStep,
    FileNetwork,
    LinearStep,
    NormStep,
    Padding,
    PoolStep,
    Step,
    add_network_name,
    check_is_alexnet,
)

_Stage = tuple[ConvStep | LinearStep, list[Step]]


def architecture_of(network: FileNetwork, image_size: int) -> Architecture:
    """Returns the architecture that computes what the file's network computes for images of this size.

    Raises:
        ValueError: no architecture of this package does; the message names the node.
    """
    with add_network_name(network.name):
        return _architecture(_stages(network.steps), image_size)


def _architecture(stages: Sequence[_Stage], image_size: int) -> Architecture:
    convs = [(head, after) for head, after in stages if isinstance(head, ConvStep)]
    linears = [(head, after) for head, after in stages if isinstance(head, LinearStep)]
    groups = {head.name: head.groups for head, _ in convs}
    towers = max(groups.values())
    for index, (name, count) in enumerate(groups.items()):
        if count not in (1, towers) or (index == 0 and count != 1):
            raise ValueError(f"{name} has {count} groups; an AlexNet of {towers} towers cannot have that")
    after_convs = [step for _, after in convs for step in after]
    pool = _only_one("max-pooling", [step for step in after_convs if isinstance(step, PoolStep)])
    conv_stages, ceil, adaptive = _convs(convs, image_size, towers)
    return Architecture(
        name="imported",
        convs=conv_stages,
        linears=_linears(linears),
        towers=towers,
        norm=_norm(after_convs, across_towers=towers > 1),
        pool_size=pool.size if pool else PAPER.pool_size,
        pool_stride=pool.stride if pool else PAPER.pool_stride,
        pool_ceil=ceil,
        adaptive_pool=adaptive,
        linear_activation=_linear_activation(linears),
    )


def differences(source: Architecture, target: Architecture, stages: Sequence[str] | None = None) -> Iterator[str]:
    """Yields what two networks compute differently with the same weights, such as "norm.k 1.0 instead of 2.0".

    Args:
        source, target: architectures with the same stages.
        stages: the stages to compare; None for all.
    """
    source, target = source.computation_only(), target.computation_only()
    yield from _field_differences("", source, target)
    target_stages = {stage.name: stage for stage in target.stages}
    for stage in source.stages:
        if stages is None or stage.name in stages:
            yield from _field_differences(f"{stage.name}.", stage, target_stages[stage.name])


def _field_differences(prefix: str, source: Any, target: Any) -> Iterator[str]:
    """Compares two dataclasses field by field, without stages and fields that the weights' shapes determine."""
    for field in fields(source):
        value, target_value = getattr(source, field.name), getattr(target, field.name)
        if is_dataclass(value):
            yield from _field_differences(f"{prefix}{field.name}.", value, target_value)
        elif value != target_value and field.name not in ("convs", "linears", "towers", "channels", "width"):
            yield f"{prefix}{field.name} {value} instead of {target_value}"


def differences_at(
    source: Architecture, target: Architecture, image_size: int, stages: Sequence[str] | None = None
) -> list[str]:
    """Returns what two networks compute differently for images of one size: nothing if they compute the same.

    Args:
        source, target, stages: as for `differences`.
        image_size: side of the images in pixels; both networks fit it.
    """
    different = list(differences(_comparable(source, image_size), _comparable(target, image_size), stages))
    if different:
        return different  # which explain different sides, too
    target_sides = dict(target.stage_sides(image_size))
    sides = [(name, side, target_sides.get(name, side)) for name, side in source.stage_sides(image_size)]
    return [f"{name} {side} pixels wide instead of {other}" for name, side, other in sides if side != other]


def _comparable(net: Architecture, image_size: int) -> Architecture:
    """Returns an architecture with only what decides the output for one image size, except pooling's rounding."""
    pooled = any("pool" in conv.after for conv in net.convs)
    side = [side for _, side in net.stage_sides(image_size)][-1]
    computed = net.computation_only()
    return replace(
        computed,
        norm=computed.norm if net.towers > 1 else replace(computed.norm, across_towers=False),
        pool_size=net.pool_size if pooled else PAPER.pool_size,
        pool_stride=net.pool_stride if pooled else PAPER.pool_stride,
        pool_ceil=False,
        adaptive_pool=None if net.adaptive_pool == side else net.adaptive_pool,
    )


def _stages(steps: Sequence[Step]) -> list[_Stage]:
    """Divides the steps into stages: a layer, and what follows it."""
    stages: list[_Stage] = []
    for step in steps:
        if isinstance(step, ConvStep | LinearStep):
            if isinstance(step, ConvStep) and stages and isinstance(stages[-1][0], LinearStep):
                raise ValueError(f"{step.name} follows a linear layer; in an AlexNet all convolutions are before them")
            stages.append((step, []))
        elif stages:
            stages[-1][1].append(step)
        else:
            raise ValueError(f"{step.name} is before the first convolution; an AlexNet starts with a convolution")
    heads = [head for head, _ in stages]
    convs = sum(isinstance(head, ConvStep) for head in heads)
    check_is_alexnet(convs, len(heads) - convs)
    return stages


StepT = TypeVar("StepT", bound=Step)


def _norm(steps: Sequence[Step], across_towers: bool) -> Norm:
    step = _only_one("normalisation", [step for step in steps if isinstance(step, NormStep)])
    if step is None:
        return Norm()
    with _add_step_name(step):
        return Norm(step.window, step.alpha, step.beta, step.k, across_towers)


@contextmanager
def _add_step_name(step: Step) -> Iterator[None]:
    """Adds the name of a step to the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{step.name} cannot be represented: {error}") from error


def _only_one(what: str, steps: Sequence[StepT]) -> StepT | None:
    """Returns the first step; None without steps. All must be equal except in name, padding and rounding."""
    for step in steps[1:]:
        if _constants(step) != _constants(steps[0]):
            raise ValueError(
                f"{step.name} has {_constants(step)}, but {steps[0].name} {_constants(steps[0])}; "
                f"all stages must have the same {what}"
            )
    return steps[0] if steps else None


def _constants(step: Step) -> str:
    """Returns what must be the same in all steps of a kind, as text."""
    skipped = ("name", "padding", "ceil")
    return ", ".join(f"{name} {value}" for name, value in vars(step).items() if name not in skipped)


def _convs(
    stages: Sequence[tuple[ConvStep, list[Step]]], side: int, towers: int
) -> tuple[tuple[Conv, ...], bool | tuple[str, ...], int | None]:
    """Returns the convolution stages, which of their poolings round up, and the side of the adaptive pooling."""
    convs: list[Conv] = []
    rounded_up: dict[str, bool] = {}  # only where rounding matters
    adaptive: int | None = None
    for name, (head, after) in zip(PAPER.stage_names, stages, strict=False):
        conv = _conv(name, head, side, reads_all_towers=bool(convs) and towers > 1 and head.groups == 1)
        side = (side + sum(conv.padding[:2]) - conv.kernel) // conv.stride + 1
        operations: list[Operation] = []
        for step in after:
            if adaptive is not None:
                raise ValueError(f"{step.name} follows the average pooling, which must be the last before fc6")
            match step:
                case PoolStep():
                    side, up = _pooled(step, side)
                    if up is not None:
                        rounded_up[name] = up
                    operations.append("pool")
                case AveragePoolStep(size=1, stride=1):
                    pass  # changes nothing
                case AveragePoolStep():
                    adaptive = _averaged(step, side, is_last=len(convs) == len(stages) - 1)
                case NormStep():
                    operations.append("norm")
                case ActivationStep():
                    operations.append(step.kind)
        convs.append(replace(conv, after=tuple(operations)))
    up_in = tuple(name for name, up in rounded_up.items() if up)
    ceil = bool(up_in) if len(up_in) in (0, len(rounded_up)) else up_in
    return tuple(convs), ceil, adaptive


def _conv(name: str, step: ConvStep, side: int, reads_all_towers: bool) -> Conv:
    """Returns a convolution stage without what follows the convolution."""
    outputs, _, *kernel = step.layer.weight.shape
    if len(kernel) != 2 or kernel[0] != kernel[1]:
        raise ValueError(f"{step.name} has a kernel of {tuple(kernel)}; must be square")
    padding = _explicit_padding(step.padding, side, kernel[0], step.stride)
    with _add_step_name(step):
        return Conv(name, outputs, kernel[0], step.stride, padding, reads_all_towers, after=())


def _explicit_padding(padding: Padding, side: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Returns the padding at (left, right, top, bottom) of maps of this side."""
    if isinstance(padding, tuple):
        return padding
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    less, more = total // 2, total - total // 2
    return (less, more, less, more) if padding == "same_upper" else (more, less, more, less)


def _pooled(step: PoolStep, side: int) -> tuple[int, bool | None]:
    """Returns the side after max-pooling, and whether it is rounded up; None where rounding makes no difference."""
    left, right, top, bottom = _explicit_padding(step.padding, side, step.size, step.stride)
    down = Architecture("", PAPER.convs, PAPER.linears, pool_size=step.size, pool_stride=step.stride)
    floor, ceil = down.pooled(side, ceil=False), down.pooled(side, ceil=True)
    if (left, top) != (0, 0) or right != bottom:
        raise ValueError(f"{step.name} pads (left, right, top, bottom) by {(left, right, top, bottom)}; must be none")
    # zeros of the padding never win: they count as minus infinity, as what is past the edge in rounding up
    start = side + right - step.size
    pooled = (math.ceil(start / step.stride) if step.ceil else start // step.stride) + 1
    if step.ceil and (pooled - 1) * step.stride >= side + right:
        pooled -= 1  # a window that would start past the edge is left out
    if pooled not in (floor, ceil):
        raise ValueError(f"{step.name} makes maps of {pooled} pixels of {side}; must be {floor} or {ceil}")
    return pooled, None if floor == ceil else pooled == ceil


def _averaged(step: AveragePoolStep, side: int, is_last: bool) -> int:
    """Returns the side to which an average pooling reduces the last map."""
    if not is_last:
        raise ValueError(f"{step.name} pools by the average after a stage before conv5; must be max-pooling")
    if step.size is None:
        return 1
    if step.stride != step.size or side % step.size:
        raise ValueError(
            f"{step.name} averages {step.size}x{step.size} pixels at stride {step.stride}; must be max-pooling"
        )
    return side // step.size


def _linears(stages: Sequence[tuple[LinearStep, list[Step]]]) -> tuple[Linear, ...]:
    names = PAPER.stage_names[-len(stages) :]
    widths = [*(len(head.layer.bias) for head, _ in stages[:-1]), None]
    return tuple(Linear(name, width) for name, width in zip(names, widths, strict=True))


def _linear_activation(stages: Sequence[tuple[LinearStep, list[Step]]]) -> Activation:
    """Returns the activation after each linear layer but the last."""
    kinds: list[Activation] = []
    for head, after in stages[:-1]:
        if len(after) != 1 or not isinstance(after[0], ActivationStep):
            followers = ", ".join(step.name for step in after) or "nothing"
            raise ValueError(f"{head.name} is followed by {followers}; must be one activation")
        kinds.append(after[0].kind)
    head, after = stages[-1]
    if after:
        raise ValueError(f"{after[0].name} follows the last layer, {head.name}, whose outputs are the logits")
    if len(set(kinds)) > 1:
        raise ValueError(f"its linear layers have different activations, {', '.join(kinds)}; must be the same")
    return kinds[0]
