"""What is measured on a machine, and how long: on GPUs, or tiny on a CPU to try the page."""

from dataclasses import dataclass

IMAGENET_IMAGES, PAPER_EPOCHS = 1_281_167, 90
PAPER_IMAGES_PER_SECOND = PAPER_EPOCHS * 1_200_000 / (5.5 * 86_400)
"""Of two GTX 580 in 2012: 90 epochs of 1.2 million images in five to six days (paper, section 5)."""


@dataclass(frozen=True)
class Placement:
    """A way to use a machine's GPUs."""

    name: str
    gpus: int  # how many it takes
    devices: tuple[str, ...] = ()  # of --devices; empty under torchrun, whose processes take the GPUs of their ranks
    processes: int = 0  # of torchrun; 0 without it
    split: str = "auto"  # the value of --split


@dataclass(frozen=True)
class Plan:
    """The machine, and the sizes of all measurements."""

    kind: str  # "cuda" or "cpu"
    gpus: int  # how many to use; on a CPU, how many to pretend
    batch: int = 128  # images in a step, for each GPU
    image_size: int = 224  # of the runs with the input path, in pixels; the steps alone always have 224
    steps: int = 30  # timed steps of the step alone, in each of 5 rounds
    images: int = 40_960  # training images of a run with the input path
    epochs: int = 4  # of that run; the first does not count
    precisions: tuple[str, ...] = ("fp32", "tf32", "bf16")
    compiled: tuple[bool, ...] = (False, True)  # whether to measure --compile too
    limit: float = 900.0  # seconds after which a measurement is given up
    tests: tuple[str, ...] = ()  # arguments of pytest that choose the tests of correctness

    def placements(self) -> list[Placement]:
        """Returns the placements that this many GPUs allow, those of few GPUs first."""
        n = self.gpus
        known = [Placement("one device", 1, self.device_names(1))]
        if n >= 2:
            known.append(Placement("two devices", 2, self.device_names(2)))
        for count in sorted({2, n - n % 2}) if n >= 2 else ():
            splits = {"tower ranks": "ranks", "ranks, hybrid": "hybrid", "batch slices": "none"}
            known += [Placement(f"{count} {name}", count, (), count, split) for name, split in splits.items()]
        if n >= 4:
            known.append(Placement(f"{n // 2} batch slices of two devices", n - n % 2, (), n // 2, "auto"))
        return known

    def device_names(self, count: int) -> tuple[str, ...]:
        """Returns the names of the first devices; a CPU takes the place of each GPU."""
        return tuple(f"cuda:{index}" if self.kind == "cuda" else "cpu" for index in range(count))


TINY = Plan(
    kind="cpu",
    gpus=2,
    batch=2,
    image_size=64,
    steps=1,
    images=48,
    epochs=2,
    limit=300.0,
    precisions=("fp32", "bf16"),
    compiled=(False,),
    tests=("-k", "(one and device and thirty) or (never and one) or dropout"),
)
"""A CPU finishes it in minutes: its numbers mean nothing, but every part of the page runs."""
