"""Finds out from the names of numbered files whether some are missing."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from alexnet_torch.errors import UserError

OF_TOTAL = re.compile(r"(.*?)(\d+)-of-(\d+)(\D*)")  # train-00000-of-00294.parquet
NUMBERED = re.compile(r"(.*?)(\d+)(\.\w+)")  # imagenet1k-train-0000.tar


def check_complete(files: Iterable[Path]) -> None:
    """Raises a UserError if numbered files, which begin with 0, are not all there.

    Names may tell the total, as train-00000-of-00294.parquet. A last file that is missing is found out only then.
    """
    groups: dict[tuple[Path, str, str, str], dict[int, str]] = {}
    for file in sorted(files):
        if match := OF_TOTAL.fullmatch(file.name):
            before, number, total, after = match.groups()
        elif match := NUMBERED.fullmatch(file.name):
            (before, number, after), total = match.groups(), ""
        else:
            continue
        numbers = groups.setdefault((file.parent, before, after, total), {})
        if int(number) in numbers or (total and int(number) >= int(total)):
            raise UserError(f"{file}: its number does not fit the files beside it; move those of other sets elsewhere")
        numbers[int(number)] = number
    for (folder, before, after, total), numbers in groups.items():
        count = (int(total) if total else max(numbers) + 1) - len(numbers)
        if count:  # before a search for the first: the number may be a date
            first = next(number for number in itertools.count() if number not in numbers)
            width = len(next(iter(numbers.values())))
            name = f"{before}{first:0{width}}{'-of-' + total if total else ''}{after}"
            more = f", and {count - 1:,} more of its kind are" if count > 1 else " is"
            raise UserError(f"{folder}: {name}{more} missing; download them")
