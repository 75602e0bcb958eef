"""The sections of a run's page about its errors: final errors, errors of each class, confusion, worst images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_torch.evaluation.figures.curves import confusion_figure
from alexnet_torch.evaluation.guesses import Guesses, WrongImage
from alexnet_torch.evaluation.intervals import wilson_interval
from alexnet_torch.evaluation.report_page.html import drawing, paragraph, picture, section, table, text

_INTERVAL = (
    "The interval has 95% confidence (Wilson's score interval): it says how far the error on other images of the same "
    "kind may be from the one on these, not how much another seed would change it."
)
_CHOSEN = "The weights were chosen by the error on these same images, which makes it a little too good."


def error_section(best: tuple[float, float] | None, test: dict[str, Any] | None, guesses: Guesses | None) -> str:
    """Returns the final errors.

    Args:
        best: epoch and top-1 error of the best validation, as a fraction; None without any.
        test: the record of the test with several crops; None without one.
        guesses: of the best weights; without them there are no intervals, since the number of images is unknown.
    """
    rows = []
    images = guesses.images if guesses else None
    if guesses:
        rows.append(["centre crop", *(_error(count, guesses.images) for count in (guesses.wrong1, guesses.wrong5))])
    elif best:
        rows.append(["centre crop", f"{best[1]:.2%}", ""])
    if test and images:
        counts = [round(test[name] * images) for name in ("top1_error", "top5_error")]
        rows.append([f"{test['crops']} crops", *(_error(count, images) for count in counts)])
    elif test:
        rows.append([f"{test['crops']} crops", f"{test['top1_error']:.2%}", f"{test['top5_error']:.2%}"])
    notes = [paragraph(f"On {images:,} validation images. {_INTERVAL} {_CHOSEN}", "note")] if images else []
    where = [paragraph(f"The weights in model.pt are those of epoch {best[0]:g}.")] if best else []
    if not rows:
        return section("Errors", paragraph("No validation was done yet."))
    return section("Errors", *where, table(["", "top-1 error", "top-5 error"], rows, 2), *notes)


def class_section(guesses: Guesses) -> str:
    """Returns the error of each class, the highest first, and the most confused pairs."""
    errors, images = guesses.confusion.class_errors(), guesses.confusion.images
    order = np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable")
    rows = []
    for index in order.tolist():
        if images[index] == 0:
            continue
        wrong = round(float(errors[index]) * int(images[index]))
        bar = f'<span class="bar" style="width:{1.2 * 100 * errors[index]:.0f}px"></span>'
        shown = _error(wrong, int(images[index]))
        rows.append([text(guesses.classes[index]), bar, f"{wrong} of {images[index]}", shown])
    per_class = f'<div class="scroll">{table(["class", "", "wrong", "top-1 error"], rows, 2)}</div>'
    pairs = guesses.confusion.most_confused()
    confused = [
        [text(guesses.classes[pair.label]), text(guesses.classes[pair.guess]), str(pair.images)] for pair in pairs
    ]
    return section("Errors of each class", per_class) + section(
        "Most confused pairs", table(["class", "taken for", "images"], confused, 1) if pairs else paragraph("None.")
    )


def confusion_section(guesses: Guesses) -> str:
    """Returns the confusion matrix as a picture."""
    figure = confusion_figure(guesses.classes, guesses.confusion.counts)
    return section("Confusion", drawing(figure, "confusion matrix: a row for each class, a column for each guess"))


def worst_section(images: Sequence[WrongImage]) -> str:
    """Returns the misclassified images whose class has the lowest probabilities."""
    if not images:
        return section("Worst images", paragraph("No validation image is misclassified."))
    cells = []
    for image in images:
        label, guess = text(image.label), text(image.guess)
        caption = f"{label} ({image.label_probability:.1%})<br>guess {guess} ({image.guess_probability:.0%})"
        described = f"{image.label}, taken for {image.guess}"
        where = f'<br><span class="note">{text(image.path)}</span>'
        cells.append(f"<figure>{picture(image.pixels, described)}<figcaption>{caption}{where}</figcaption></figure>")
    note = "Misclassified images whose class has the lowest probability: hard images, or wrong labels."
    return section("Worst images", paragraph(note, "note"), f'<div class="pictures">{"".join(cells)}</div>')


def _error(wrong: int, images: int) -> str:
    low, high = wilson_interval(wrong, images)
    return f'{wrong / images:.2%} <span class="note">[{low:.2%}, {high:.2%}]</span>'
