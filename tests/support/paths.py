"""Where the project is, the data folder that may be beside it, and the script that trains a narrow network."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SHARED_DATA = PROJECT.parent / "shared" / "data"
NARROW_TRAIN = PROJECT / "tests/support/narrow_train.py"
