"""What the network is: frozen dataclasses and the five presets.

An architecture says nothing about where towers live (placement.py) or how they learn
(recipes.py). Facts are those of the paper (Krizhevsky, Sutskever, Hinton, 2012), of the 2012
source, of Caffe's bvlc_alexnet, of torchvision and of the TensorFlow post.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Activation = Literal["relu", "tanh"]
Operation = Literal["relu", "tanh", "norm", "spatial_norm", "pool"]
Distribution = Literal["normal", "truncated_normal", "uniform"]


def _require(holds: bool, owner: object, field: str, must: str) -> None:
    if not holds:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} must be {must}, not {value!r}")


@dataclass(frozen=True)
class Init:
    """A layer's weights and biases before the first step.

    Attributes:
        std: standard deviation of the weights; of the normal before truncation for
            "truncated_normal" (redrawn beyond two of them, as TensorFlow does); the half-width of
            the interval for "uniform".
        bias: the constant that biases start from; None, for "uniform" alone, draws them like weights.
        distribution: of the weights.
        by_fan_in: `std` is in units of 1 / sqrt(the layer's inputs): 1 is LeCun's rule, sqrt(2)
            He's, and 1 with "uniform" is torch's default.
    """

    std: float = 0.01
    bias: float | None = 0.0
    distribution: Distribution = "normal"
    by_fan_in: bool = False

    def __post_init__(self) -> None:
        _require(self.std > 0, self, "std", "positive")
        known = get_args(Distribution)
        _require(self.distribution in known, self, "distribution", f"one of {known}")
        _require(self.bias is not None or self.distribution == "uniform", self, "bias", "a number")


@dataclass(frozen=True)
class Norm:
    """Response normalisation b = a / (k + alpha / window * sum of a^2 over the window)^beta.

    alpha is in PyTorch's convention, divided by the window: the paper's 1e-4 is 5e-4 here.

    Attributes:
        window: neighbouring channels summed over, odd, clipped at the first and last channel; for
            the spatial norm, the side of a square in one channel, clipped at the borders.
        across_towers: neighbours are sought among all channels, not the tower's alone.
    """

    window: int = 5
    alpha: float = 5e-4
    beta: float = 0.75
    k: float = 2.0
    across_towers: bool = False

    def __post_init__(self) -> None:
        _require(self.window >= 1 and self.window % 2 == 1, self, "window", "odd and at least 1")
        _require(self.alpha >= 0, self, "alpha", "0 or more")
        _require(self.beta > 0, self, "beta", "positive")
        _require(self.k > 0, self, "k", "positive")


@dataclass(frozen=True)
class Conv:
    """A convolution stage: the convolution, then the operations of `after` in their order.

    Attributes:
        channels: output channels, all towers together.
        padding: zeros added at (left, right, top, bottom).
        meet: each tower reads all towers' channels, not its own alone.
    """

    name: str
    channels: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    meet: bool = False
    after: tuple[Operation, ...] = ("relu",)
    init: Init = Init()

    def __post_init__(self) -> None:
        _require(self.channels >= 1, self, "channels", "at least 1")
        _require(self.kernel >= 1, self, "kernel", "at least 1")
        _require(self.stride >= 1, self, "stride", "at least 1")
        _require(len(self.padding) == 4 and min(self.padding) >= 0, self, "padding", "four numbers of 0 or more")
        if sum(self.padding[:2]) != sum(self.padding[2:]):
            _require(False, self, "padding", "as much across as down, so that maps stay square")
        _require(set(self.after) <= set(get_args(Operation)), self, "after", f"among {get_args(Operation)}")


@dataclass(frozen=True)
class Linear:
    """A fully connected stage. `width` None stands for the number of classes (the last stage)."""

    name: str
    width: int | None
    meet: bool = True
    init: Init = Init()

    def __post_init__(self) -> None:
        _require(self.width is None or self.width >= 1, self, "width", "at least 1, or None for the classes")


@dataclass(frozen=True)
class Architecture:
    """A whole network: `convs` in order, then `linears`.

    Attributes:
        towers: parts that every stage's output channels are divided among.
        norm: what "norm" in a stage's `after` does.
        spatial_norm: what "spatial_norm" does: the window is a square within one channel.
        pool_size, pool_stride, pool_ceil: max-pooling of every "pool"; `pool_ceil` keeps windows
            that reach past the right and bottom edge.
        dropout: stages whose output is dropped at `dropout_rate` in training.
        adaptive_pool: if given, average-pools the last convolution stage to this side whatever the
            image size, as torchvision does.
        input_scale: what images of 0..255, less their mean, are multiplied by before conv1.
        linear_activation: after each linear but the last; convolutions name theirs in `after`.
    """

    name: str
    convs: tuple[Conv, ...]
    linears: tuple[Linear, ...]
    towers: int = 2
    norm: Norm = Norm()
    spatial_norm: Norm = Norm(window=5, alpha=0.001, beta=0.75, k=1.0)
    pool_size: int = 3
    pool_stride: int = 2
    pool_ceil: bool = False
    dropout: tuple[str, ...] = ("fc6", "fc7")
    dropout_rate: float = 0.5
    adaptive_pool: int | None = None
    input_scale: float = 1.0
    linear_activation: Activation = "relu"

    def __post_init__(self) -> None:
        _require(self.towers >= 1, self, "towers", "at least 1")
        _require(len(self.convs) >= 1, self, "convs", "at least one stage")
        _require(len(self.linears) >= 1, self, "linears", "at least one stage")
        _require(0 <= self.dropout_rate < 1, self, "dropout_rate", "in [0, 1)")
        _require(self.pool_size >= 1, self, "pool_size", "at least 1")
        _require(self.pool_stride >= 1, self, "pool_stride", "at least 1")
        _require(set(self.dropout) <= set(self.stage_names), self, "dropout", f"among {self.stage_names}")
        _require(self.input_scale > 0, self, "input_scale", "positive")
        _require(self.adaptive_pool is None or self.adaptive_pool >= 1, self, "adaptive_pool", "at least 1")
        known = get_args(Activation)
        _require(self.linear_activation in known, self, "linear_activation", f"one of {known}")
        names = self.stage_names
        if len(set(names)) != len(names):
            raise ValueError(f"Architecture: stage names must differ, not {names!r}")
        for conv in self.convs:
            if conv.channels % self.towers:
                raise ValueError(f"{conv.name}.channels must divide among {self.towers} towers, not {conv.channels}")
        *hidden, last = self.linears
        for linear in hidden:
            if linear.width is None or linear.width % self.towers:
                raise ValueError(f"{linear.name}.width must divide among {self.towers} towers, not {linear.width}")
        if last.width is not None:
            raise ValueError(f"{last.name}.width must be None, the number of classes, not {last.width}")

    @property
    def stages(self) -> tuple[Conv | Linear, ...]:
        """All stages, first to last."""
        return *self.convs, *self.linears

    @property
    def stage_names(self) -> tuple[str, ...]:
        """All stages by name, first to last."""
        return tuple(stage.name for stage in self.stages)

    def stage_sides(self, image_size: int) -> Iterator[tuple[str, int]]:
        """The side of each convolution stage's output, before and after each pooling.

        Yields (what, side) pairs; sides of 0 or less mean that the image is too small.
        """
        side = image_size
        for conv in self.convs:
            side = (side + sum(conv.padding[:2]) - conv.kernel) // conv.stride + 1
            yield conv.name, side
            for operation in conv.after:
                if operation == "pool":
                    side = self._pooled(side)
                    yield f"{conv.name}'s pooling", side

    def _pooled(self, side: int) -> int:
        over = side - self.pool_size
        if not self.pool_ceil:
            return over // self.pool_stride + 1
        # torch drops a last window that would start past the edge
        pooled = -(-over // self.pool_stride) + 1
        return pooled if (pooled - 1) * self.pool_stride < side else pooled - 1

    def fits(self, image_size: int) -> bool:
        """Whether every stage of an image of this size is at least 1x1."""
        return image_size >= 1 and all(side >= 1 for _, side in self.stage_sides(image_size))

    def smallest_image(self) -> int:
        """The smallest image size that `fits`, in pixels."""
        size = 1
        while not self.fits(size):
            size += 1
        return size

    def final_side(self, image_size: int) -> int:
        """The side of the map that the first linear stage reads.

        Raises:
            ValueError: the image is too small; the message names the smallest size that works.
        """
        for what, side in self.stage_sides(image_size):
            if side < 1:
                raise ValueError(
                    f"image_size {image_size} leaves nothing of {what} in {self.name}; "
                    f"the smallest that works is {self.smallest_image()}"
                )
        return self.adaptive_pool or side

    def with_init(self, **inits: Init) -> "Architecture":
        """This architecture with some stages' initialisation replaced, by stage name."""
        unknown = set(inits) - set(self.stage_names)
        if unknown:
            raise ValueError(f"{self.name} has no stage {sorted(unknown)}, only {self.stage_names}")
        return replace(
            self,
            convs=tuple(replace(c, init=inits.get(c.name, c.init)) for c in self.convs),
            linears=tuple(replace(f, init=inits.get(f.name, f.init)) for f in self.linears),
        )

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> "Architecture":
        """The architecture that `dataclasses.asdict` described, from JSON say.

        Raises:
            ValueError: a field is unknown or its value is impossible.
        """
        values = dict(description)
        try:
            values["convs"] = tuple(_stage(Conv, c) for c in values["convs"])
            values["linears"] = tuple(_stage(Linear, f) for f in values["linears"])
            values["norm"] = Norm(**values["norm"])
            values["spatial_norm"] = Norm(**values["spatial_norm"])
            values["dropout"] = tuple(values["dropout"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an architecture: {error}") from error


def _stage(kind: Any, description: dict[str, Any]) -> Any:
    values = {f.name: description[f.name] for f in fields(kind) if f.name in description}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    if unknown := set(description) - set(values):
        raise TypeError(f"{kind.__name__} has no field {sorted(unknown)}")
    return kind(**{**values, "init": Init(**values["init"])})


# "224 or 227?" The 2012 source reads 224 pixels with no padding on the left and top and lets the
# last of 1 + ceil((224 - 11) / 4) = 55 windows reach 3 pixels past the right and bottom edge.
_PAPER_CONV1_PADDING = (0, 3, 0, 3)
_ONE_AROUND = (1, 1, 1, 1)
_TWO_AROUND = (2, 2, 2, 2)
_RELU_NORM_POOL: tuple[Operation, ...] = ("relu", "norm", "pool")

PAPER = Architecture(
    name="paper",
    convs=(
        Conv("conv1", 96, 11, 4, _PAPER_CONV1_PADDING, after=_RELU_NORM_POOL, init=Init(0.01, 0.0)),
        Conv("conv2", 256, 5, 1, _TWO_AROUND, after=_RELU_NORM_POOL, init=Init(0.01, 1.0)),
        Conv("conv3", 384, 3, 1, _ONE_AROUND, meet=True, init=Init(0.01, 0.0)),
        Conv("conv4", 384, 3, 1, _ONE_AROUND, init=Init(0.01, 1.0)),
        Conv("conv5", 256, 3, 1, _ONE_AROUND, after=("relu", "pool"), init=Init(0.01, 1.0)),
    ),
    linears=(
        Linear("fc6", 4096, init=Init(0.01, 1.0)),
        Linear("fc7", 4096, init=Init(0.01, 1.0)),
        Linear("fc8", None, init=Init(0.01, 0.0)),
    ),
)
"""The paper's text to the letter, initialisation included (with which small folders stay at chance:
see recipes.py), and the source's answer to what the text leaves open: conv1's padding."""


def _source_2012() -> Architecture:
    order: dict[str, tuple[Operation, ...]] = {
        "conv1": ("norm", "pool", "relu"),
        "conv2": ("relu", "norm", "spatial_norm", "pool"),
        "conv5": ("pool", "relu"),
    }
    convs = tuple(replace(c, after=order.get(c.name, c.after)) for c in PAPER.convs)
    # scale 1e-4 is divided by the window in the source, as in PyTorch
    net = replace(PAPER, name="source_2012", convs=convs, norm=Norm(alpha=1e-4))
    return net.with_init(conv3=Init(0.03, 0.0), conv4=Init(0.03, 1.0), conv5=Init(0.03, 1.0))


SOURCE_2012 = _source_2012()
"""Net 145 of the 2012 source, the paper's net as it was run."""

CAFFE = replace(
    PAPER,
    name="caffe",
    convs=(replace(PAPER.convs[0], padding=(0, 0, 0, 0)), *PAPER.convs[1:]),
    norm=Norm(alpha=1e-4, k=1.0, across_towers=True),
).with_init(
    conv2=Init(0.01, 0.1),
    conv4=Init(0.01, 0.1),
    conv5=Init(0.01, 0.1),
    fc6=Init(0.005, 0.1),
    fc7=Init(0.005, 0.1),
)
"""Caffe's bvlc_alexnet (groups of 2 for towers), meant for 227-pixel crops; biases of 0.1 where the
paper has 1 ("found necessary")."""


def _truncated(n: int) -> Init:
    return Init(n**-0.5, 0.0, "truncated_normal")


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
    # tf.nn.local_response_normalization's defaults: radius 5, bias 1, alpha 1 (not divided by the
    # 11 channels, hence 11 in PyTorch's convention), beta 0.5
    norm=Norm(window=11, alpha=11.0, beta=0.5, k=1.0),
    pool_ceil=True,
)
"""The TensorFlow post's net: one tower, SAME padding (56, 28, 14, 7 at 224 px; exact for image sizes
that are multiples of 32), TensorFlow's normalisation defaults."""

_TORCH_DEFAULT = Init(1.0, None, "uniform", by_fan_in=True)

TORCHVISION = Architecture(
    name="torchvision",
    convs=(
        Conv("conv1", 64, 11, 4, _TWO_AROUND, after=("relu", "pool"), init=_TORCH_DEFAULT),
        Conv("conv2", 192, 5, 1, _TWO_AROUND, after=("relu", "pool"), init=_TORCH_DEFAULT),
        Conv("conv3", 384, 3, 1, _ONE_AROUND, init=_TORCH_DEFAULT),
        Conv("conv4", 256, 3, 1, _ONE_AROUND, init=_TORCH_DEFAULT),
        Conv("conv5", 256, 3, 1, _ONE_AROUND, after=("relu", "pool"), init=_TORCH_DEFAULT),
    ),
    linears=(
        Linear("fc6", 4096, init=_TORCH_DEFAULT),
        Linear("fc7", 4096, init=_TORCH_DEFAULT),
        Linear("fc8", None, init=_TORCH_DEFAULT),
    ),
    towers=1,
    dropout=("conv5", "fc6"),
    adaptive_pool=6,
)
"""torchvision.models.alexnet: the one-tower net of "One weird trick" (Krizhevsky, 2014), no norm."""

PRESETS = {net.name: net for net in (PAPER, SOURCE_2012, CAFFE, TENSORFLOW_POST, TORCHVISION)}
