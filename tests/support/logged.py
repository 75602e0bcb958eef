"""Lines that the package logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logged(lines: list[str] | None = None) -> Iterator[list[str]]:
    """Collects the lines that the package logs in the block, all but those that only --verbose shows."""
    lines = [] if lines is None else lines
    logger, handler = logging.getLogger("alexnet_torch"), logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.propagate = False  # pytest would send names that are not UTF-8 to another process
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True
