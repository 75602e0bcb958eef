"""The validation images that training has decoded already: they are read from its memory map."""

import glob
from collections.abc import Sequence

import numpy as np

from alexnet_torch.data.augment import centre_crops
from alexnet_torch.data.cache_location import CacheFolder, cache_folder, prefix_of
from alexnet_torch.data.image_map import ImageMap
from alexnet_torch.data.manifest import MANIFEST, stale_reason
from alexnet_torch.data.prepared_images import Samples, load_map, load_prepared
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.test_sets.test_set import TestSet


def stored_squares(test_set: TestSet, sides: Sequence[int], cache: str) -> dict[int, Samples]:
    """Returns the decoded images of a test set by their side, as far as `--cache` has them; nothing is built.

    A map is taken only if it is complete, and the files have not changed since. A prepared map is its own.

    Raises:
        UserError: the set is a prepared map of squares of another side.
    """
    stored: dict[int, Samples] = {}
    if test_set.source and test_set.source.map_side is not None:
        return {side: load_map(test_set.source, side).val for side in sides}
    home, prefix = cache_folder(cache), prefix_of(test_set.root)
    source = test_set.source if test_set.source and len(test_set.source.splits) > 1 else None
    for side in sides if cache != "none" else ():
        if not any(home.glob(f"{glob.escape(prefix)}*-{side}/{MANIFEST}")):
            continue  # without listing train/, which takes seconds for a million images
        try:
            source = source or open_source(test_set.root)
        except UserError:
            return stored  # its training images have changed since: it is no data set for training any more
        target = CacheFolder(home / f"{prefix}{source.variant}-{side}", source, side, has_maps=True)
        if stale_reason(target) is None:
            val = load_prepared(target, skip_bad=True).val
            if val.keys == test_set.split.keys:
                stored[side] = val
    return stored


def read_squares(samples: Samples, indices: np.ndarray) -> np.ndarray:
    """Returns decoded images, (n, side, side, 3) uint8; raises a UserError if the map is damaged."""
    images = samples.images
    assert isinstance(images, ImageMap)
    out = np.empty((len(indices), images.side, images.side, 3), np.uint8)
    images.read(samples.rows[indices], centre_crops(len(indices), images.side, images.side), out)
    return out
