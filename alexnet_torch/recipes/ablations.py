"""The paper's ablations: each changes one thing of a recipe, in most cases of its architecture.

Details that the paper does not give are those of the 2012 source's nets: 146 (a sixth convolution), 147 (pooling),
148 (no normalisation) and 150 (towers that never meet). benchmarks/experiments/ablations.py compares all of them.
"""

from collections.abc import Callable
from dataclasses import replace

from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import Architecture, Conv, Init, Operation
from alexnet_torch.recipes.recipe import Recipe


def without_norm(net: Architecture) -> Architecture:
    """Removes response normalisation, both across channels and in space (net 148)."""
    return _with_operations(net, {"norm": None, "spatial_norm": None})


def plain_pooling(net: Architecture) -> Architecture:
    """Makes pooling windows not overlap: 2x2 with stride 2 instead of 3x3 with stride 2 (net 147).

    The 2012 source rounds pooled sides up, so that 55 becomes 28, not 27. So net 147 pads conv2 and conv5 by
    one pixel less, and the inputs of conv3, conv4 and fc6 are as large as in the full net:

        224 pixels: 55, pooled 28, conv2 26, pooled 13, conv3 and conv4 13, conv5 11, pooled 6
         64 pixels: 15, pooled  8, conv2  6, pooled  3, conv3 and conv4  3, conv5  1, pooled 1

    At 64 pixels the last pooling does nothing: conv5 without padding already reduces 3 to 1.
    """

    def with_less_padding(conv: Conv) -> Conv:
        left, right, top, bottom = conv.padding
        return replace(conv, padding=(left - 1, right - 1, top - 1, bottom - 1))

    convs = tuple(with_less_padding(conv) if conv.name in ("conv2", "conv5") else conv for conv in net.convs)
    return replace(net, convs=convs, pool_size=2, pool_stride=2, pool_ceil=True)


def one_tower(net: Architecture) -> Architecture:
    """Makes one tower: half the kernels in every convolution but the last, and linear stages of full width.

    The last convolution stays as wide, because fc6, which reads it, has most of the parameters: the net has
    59,798,312 parameters, the full net 60,965,224 (paper, section 3.2's footnote).
    """
    if net.towers == 1:
        return net
    *convs, last = net.convs
    halved = (replace(conv, channels=conv.channels // 2) for conv in convs)
    return replace(net, convs=(*halved, last), towers=1)


def never_meet(net: Architecture) -> Architecture:
    """Makes each tower read only its own outputs up to fc7; fc8 reads both towers (net 150).

    conv3, fc6 and fc7 lose parameters by this. To compensate, net 150 has a wider conv2 (160 kernels in each
    tower, not 128) and fc6 (4096 units in each tower, not 2048): 60,714,408 parameters, not 60,965,224.
    """
    if net.towers == 1:
        return net
    convs, linears = [], []
    for conv in net.convs:
        channels = conv.channels * 5 // 4 if conv.name == "conv2" else conv.channels
        convs.append(replace(conv, channels=channels, reads_all_towers=False))
    *hidden, last = net.linears
    for linear in hidden:
        width = 2 * linear.width if linear.name == "fc6" and linear.width else linear.width
        linears.append(replace(linear, width=width, reads_all_towers=False))
    return replace(net, convs=tuple(convs), linears=(*linears, last))


def without_dropout(net: Architecture) -> Architecture:
    """Removes dropout."""
    return replace(net, dropout=())


def with_tanh(net: Architecture) -> Architecture:
    """Replaces every ReLU by tanh (paper, section 3.1)."""
    return replace(_with_operations(net, {"relu": "tanh"}), linear_activation="tanh")


def without_conv4(net: Architecture) -> Architecture:
    """Removes conv4: its input and output have the same shape, so no other layer changes."""
    return replace(net, convs=tuple(conv for conv in net.convs if conv.name != "conv4"))


def sixth_conv(net: Architecture) -> Architecture:
    """Adds a sixth convolution after the last pooling layer, 3x3, which reads both towers (net 146, the paper's CNN*).

    The paper trained this net on a larger data set first. Net 146 took its convolutions from such runs, which
    train.py can do with --init and --init-stages.
    """
    last = net.convs[-1]
    sixth = Conv("conv6", last.channels, 3, padding=(1, 1, 1, 1), reads_all_towers=True, init=Init(0.03, 1.0))
    return replace(net, convs=(*net.convs, sixth))


def _with_operations(net: Architecture, changes: dict[Operation, Operation | None]) -> Architecture:
    """Replaces operations that follow convolutions; None removes them."""
    convs = []
    for conv in net.convs:
        changed = (changes.get(operation, operation) for operation in conv.after)
        convs.append(replace(conv, after=tuple(operation for operation in changed if operation is not None)))
    return replace(net, convs=tuple(convs))


ARCHITECTURE_CHANGES: dict[str, Callable[[Architecture], Architecture]] = {
    "no-norm": without_norm,
    "plain-pooling": plain_pooling,
    "one-tower": one_tower,
    "never-meet": never_meet,
    "no-dropout": without_dropout,
    "tanh": with_tanh,
    "no-conv4": without_conv4,
    "sixth-conv": sixth_conv,
}
"""Functions that change an architecture, by their `--ablation` names."""

ABLATIONS = (*ARCHITECTURE_CHANGES, "no-colour")
"""All names that `--ablation` takes; "no-colour" changes the training images, not the architecture."""


def apply_ablation(recipe: Recipe, name: str | None) -> Recipe:
    """Returns a copy of a recipe with one thing changed.

    Args:
        recipe: a recipe whose architecture has the paper's stages.
        name: one of ABLATIONS, or None to change nothing.

    Raises:
        UserError: there is no such ablation, or it changes nothing: for example, the recipe has no dropout.
    """
    if name is None:
        return recipe
    if name == "no-colour":
        changed = replace(recipe, colour=None)
    elif name in ARCHITECTURE_CHANGES:
        changed = replace(recipe, architecture=ARCHITECTURE_CHANGES[name](recipe.architecture))
    else:
        raise UserError(f"--ablation {name}: there is no such ablation; choose one of {', '.join(ABLATIONS)}")
    if changed == recipe:
        raise UserError(f"--ablation {name}: changes nothing in this recipe; choose another --ablation or --recipe")
    return changed
