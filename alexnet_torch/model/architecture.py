"""What a network is: frozen dataclasses, and the paper's net (Krizhevsky, Sutskever, Hinton, 2012).

An architecture says nothing about where towers live (placement.py) or how they learn
(recipes.py). Other people's nets are in presets.py.
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

    def computation_only(self) -> "Architecture":
        """What decides what given weights compute, and nothing else: no name, dropout, initial weights, norms that
        no stage has, or scale of the images, which can be taken into conv1's weights."""
        used = {operation for conv in self.convs for operation in conv.after}
        return replace(
            self.with_init(**dict.fromkeys(self.stage_names, Init())),
            name="",
            dropout=(),
            dropout_rate=0.0,
            input_scale=1.0,
            norm=self.norm if "norm" in used else Norm(),
            spatial_norm=self.spatial_norm if "spatial_norm" in used else Norm(),
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


PAPER = Architecture(
    name="paper",
    convs=(
        # "224 or 227?" The 2012 source reads 224 pixels with no padding on the left and top and lets the
        # last of 1 + ceil((224 - 11) / 4) = 55 windows reach 3 pixels past the right and bottom edge.
        Conv("conv1", 96, 11, 4, (0, 3, 0, 3), after=("relu", "norm", "pool"), init=Init(0.01, 0.0)),
        Conv("conv2", 256, 5, 1, (2, 2, 2, 2), after=("relu", "norm", "pool"), init=Init(0.01, 1.0)),
        Conv("conv3", 384, 3, 1, (1, 1, 1, 1), meet=True, init=Init(0.01, 0.0)),
        Conv("conv4", 384, 3, 1, (1, 1, 1, 1), init=Init(0.01, 1.0)),
        Conv("conv5", 256, 3, 1, (1, 1, 1, 1), after=("relu", "pool"), init=Init(0.01, 1.0)),
    ),
    linears=(
        Linear("fc6", 4096, init=Init(0.01, 1.0)),
        Linear("fc7", 4096, init=Init(0.01, 1.0)),
        Linear("fc8", None, init=Init(0.01, 0.0)),
    ),
)
"""The paper's text to the letter, initialisation included (with which small folders stay at chance:
see recipes.py), and the source's answer to what the text leaves open: conv1's padding."""
