"""A set of images with known classes, and how it is found: val/ of a data set, class folders, or ImageNet-C."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.source import Source, SourceClass, SourceSplit


@dataclass(frozen=True)
class TestSet:
    """Images with known classes.

    Attributes:
        form: as people call it.
        root: the folder or file that --data names.
        classes: that the labels are of.
        split: the images, in their order.
        passed_over: what is no image.
        groups: the names of groups of images that are scored separately, too, such as "snow/3"; often none.
        group_of: (n,) int64, each image's group; None without groups.
        cropped_side: side of the images in pixels, if they are centre crops already; None: any images.
        source: what the set is the validation images of, if it is.
    """

    __test__ = False  # no class of tests, for pytest

    form: str
    root: Path
    classes: tuple[SourceClass, ...]
    split: SourceSplit
    passed_over: PassedOver
    groups: tuple[str, ...] = ()
    group_of: np.ndarray | None = None
    cropped_side: int | None = None
    source: Source | None = None

    @classmethod
    def of_source(cls, source: Source, form: str | None = None) -> "TestSet":
        """Returns the validation images of a source."""
        val = source.split("val")
        return cls(form or source.form, source.root, source.classes, val, source.passed_over, source=source)

    def groups_of(self, indices: np.ndarray) -> np.ndarray | None:
        """Returns the groups of some images, (n,) int64."""
        return None if self.group_of is None else self.group_of[indices]

    def describe(self) -> str:
        """Returns one line for people: form, numbers of classes and images, what was passed over."""
        counts = f"{len(self.classes):,} classes, {len(self.split):,} images"
        return f"--data {self.root}: {self.form}, {counts}{self.passed_over}"
