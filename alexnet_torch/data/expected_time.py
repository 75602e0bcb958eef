"""Says how long a decoding pass will take, from the measured rate of its first thousand images."""

import logging
from time import monotonic

logger = logging.getLogger(__name__)

MEASURED = 1000
"""Images whose rate is measured."""


class ExpectedTime:
    """Announces the time that is left, once.

    The clock starts when each worker has finished a chunk, so that the workers' start is not measured, and all of them
    work. With many workers more than a thousand images are measured, since so few would be done at once.

    Args:
        workers: processes that decode.
        chunk: images that a worker decodes at a time.
    """

    def __init__(self, workers: int, chunk: int) -> None:
        self._workers = workers
        self._skipped, self._measured = workers * chunk, max(MEASURED, 2 * workers * chunk)
        self._start: tuple[int, float] | None = None
        self._done = False

    def update(self, decoded: int, left: int) -> None:
        """Counts images.

        Args:
            decoded: in this pass so far.
            left: that are not decoded yet.
        """
        if self._done or decoded < self._skipped:
            return
        now = monotonic()
        if self._start is None:
            self._start = decoded, now
            return
        count, seconds = decoded - self._start[0], now - self._start[1]
        if count >= self._measured and seconds > 0:
            self._done = True
            rate = count / seconds
            processes = f"{self._workers} process{'es' if self._workers > 1 else ''}"
            logger.info(f"{rate:,.0f} images/s in {processes}: about {duration(left / rate)} to go")


def duration(seconds: float) -> str:
    """Returns a time for people: "40 s", "3 min", "2 h 5 min"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
