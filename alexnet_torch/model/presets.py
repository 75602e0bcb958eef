"""Other versions of the network than architecture.PAPER, whose norm and pooling are the defaults."""

from dataclasses import replace

from alexnet_torch.model.architecture import PAPER, Architecture, Conv, Init, Linear, Norm, Operation

After = dict[str, tuple[Operation, ...]]  # by a convolution's name
_ONE_AROUND, _TWO_AROUND = (1, 1, 1, 1), (2, 2, 2, 2)
_RELU_NORM_POOL: tuple[Operation, ...] = ("relu", "norm", "pool")


def _with_after(net: Architecture, after: After) -> tuple[Conv, ...]:
    return tuple(replace(conv, after=after.get(conv.name, conv.after)) for conv in net.convs)


_TEXT = Init(0.01, 1.0)
PAPER_LITERAL = PAPER.with_init(conv2=_TEXT, conv3=Init(0.01, 0.0), conv4=_TEXT, conv5=_TEXT, fc6=_TEXT, fc7=_TEXT)
"""The paper's text with its own initial weights, with which small data sets stay at chance."""


_SOURCE_AFTER: After = {
    "conv1": ("norm", "pool", "relu"),
    "conv2": ("relu", "norm", "spatial_norm", "pool"),
    "conv5": ("pool", "relu"),
}
SOURCE_2012 = replace(
    PAPER_LITERAL,
    name="source_2012",
    convs=_with_after(PAPER_LITERAL, _SOURCE_AFTER),
    norm=Norm(alpha=1e-4),  # the source divides its scale by the window, as PyTorch does
    pool_ceil=True,
).with_init(conv3=Init(0.03, 0.0), conv4=Init(0.03, 1.0), conv5=Init(0.03, 1.0))
"""Net 145 of the 2012 source: the paper's net as it was run."""


def _caffe_inits(bias: float) -> dict[str, Init]:
    convs = dict.fromkeys(("conv2", "conv4", "conv5"), Init(0.01, bias))
    return convs | dict.fromkeys(("fc6", "fc7"), Init(0.005, bias))


CAFFE = replace(
    PAPER_LITERAL,
    name="caffe",
    convs=(replace(PAPER_LITERAL.convs[0], padding=(0, 0, 0, 0)), *PAPER_LITERAL.convs[1:]),
    norm=Norm(alpha=1e-4, k=1.0, across_towers=True),
    pool_ceil=True,
).with_init(**_caffe_inits(0.1))
"""Caffe's bvlc_alexnet (2 groups as towers), meant for 227-pixel crops; biases of 0.1 where the paper
has 1 ("found necessary")."""

_CAFFENET_AFTER: After = dict.fromkeys(("conv1", "conv2"), ("relu", "pool", "norm"))
CAFFENET = replace(CAFFE, name="caffenet", convs=_with_after(CAFFE, _CAFFENET_AFTER)).with_init(**_caffe_inits(1.0))
"""Caffe's bvlc_reference_caffenet: pooling before normalisation, and the paper's biases of 1."""


def _truncated(inputs: int) -> Init:
    return Init(inputs**-0.5, 0.0, "truncated_normal")


TENSORFLOW_POST = Architecture(
    name="tensorflow_post",
    convs=(
        Conv("conv1", 96, 11, 4, (3, 4, 3, 4), after=_RELU_NORM_POOL, init=_truncated(224 * 224)),
        Conv("conv2", 256, 5, 1, _TWO_AROUND, after=_RELU_NORM_POOL, init=_truncated(96)),
        Conv("conv3", 384, 3, 1, _ONE_AROUND, init=_truncated(256)),
        Conv("conv4", 384, 3, 1, _ONE_AROUND, init=_truncated(384)),
        Conv("conv5", 256, 3, 1, _ONE_AROUND, after=("relu", "pool"), init=_truncated(384)),
    ),
    linears=(
        Linear("fc6", 4096, init=_truncated(7 * 7 * 256)),
        Linear("fc7", 4096, init=_truncated(4096)),
        Linear("fc8", None, init=_truncated(4096)),
    ),
    towers=1,
    # the defaults of tf.nn.local_response_normalization, whose alpha is not divided by the window
    norm=Norm(window=11, alpha=11.0, beta=0.5, k=1.0),
    pool_ceil=True,
)
"""The TensorFlow post's net: one tower, SAME padding (exact for multiples of 32 pixels)."""

TORCHVISION = Architecture(
    name="torchvision",
    convs=(
        Conv("conv1", 64, 11, 4, _TWO_AROUND, after=("relu", "pool")),
        Conv("conv2", 192, 5, 1, _TWO_AROUND, after=("relu", "pool")),
        Conv("conv3", 384, 3, 1, _ONE_AROUND),
        Conv("conv4", 256, 3, 1, _ONE_AROUND),
        Conv("conv5", 256, 3, 1, _ONE_AROUND, after=("relu", "pool")),
    ),
    linears=(Linear("fc6", 4096), Linear("fc7", 4096), Linear("fc8", None)),
    towers=1,
    dropout=("conv5", "fc6"),
    adaptive_pool=6,
).with_init(**dict.fromkeys(PAPER.stage_names, Init(1.0, None, "uniform", by_fan_in=True)))
"""torchvision.models.alexnet: the net of "One weird trick" (Krizhevsky, 2014), without norm."""

CIFAR_26 = Architecture(
    name="cifar_26",
    convs=(
        Conv("conv1", 32, 5, 1, _TWO_AROUND, after=("pool", "relu"), init=Init(0.0001)),
        Conv("conv2", 32, 5, 1, _TWO_AROUND, after=("relu", "avg_pool")),
        Conv("conv3", 64, 5, 1, _TWO_AROUND, after=("relu", "avg_pool")),
    ),
    linears=(Linear("fc4", 64, init=Init(0.1)), Linear("fc5", None, init=Init(0.1))),
    towers=1,
    spatial_norm=Norm(window=3, alpha=5e-5, k=1.0),  # the source divides its scale by the window's 9 pixels
    pool_ceil=True,
    dropout=(),
)
"""cuda-convnet's net "80sec" for CIFAR-10's 32 pixels, by AlexNet's authors, with 26% error."""

_NORM_AFTER: After = {"conv1": ("pool", "relu", "spatial_norm"), "conv2": ("relu", "avg_pool", "spatial_norm")}
CIFAR_18 = replace(
    CIFAR_26, name="cifar_18", convs=_with_after(CIFAR_26, _NORM_AFTER), linears=(Linear("fc4", None, init=Init(0.01)),)
)
"""cuda-convnet's net "18pct": with a norm after the first two pools, and a single linear stage."""

TINY_IMAGENET = replace(
    PAPER,
    name="tiny_imagenet",
    convs=(
        replace(PAPER.convs[0], channels=64, kernel=5, stride=2, padding=_TWO_AROUND),
        *(replace(conv, channels=n) for conv, n in zip(PAPER.convs[1:], (192, 256, 256, 192), strict=True)),
    ),
    linears=tuple(replace(linear, width=linear.width and 2048) for linear in PAPER.linears),
    pool_ceil=True,
    dropout_rate=0.25,
)
"""The paper's net for crops of 56 of 64 pixels: conv1 5x5 with stride 2, and two thirds of its kernels or more."""

PRESETS = {net.name: net for net in (PAPER, SOURCE_2012, CAFFE, CAFFENET, TENSORFLOW_POST, TORCHVISION)}
"""All networks for ImageNet, by name: those that `import` recognises."""


def preset(name: str) -> Architecture:
    """Returns an architecture by name: of PRESETS, "paper_literal", "cifar_26", ...; else ValueError."""
    others = {net.name: net for net in (CIFAR_26, CIFAR_18, TINY_IMAGENET)}
    named = {**PRESETS, "paper_literal": PAPER_LITERAL, **others}
    if name not in named:
        raise ValueError(f"no architecture {name!r}; there are {', '.join(named)}")
    return named[name]
