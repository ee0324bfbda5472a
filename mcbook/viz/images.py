"""Pictures of the data, with what they are and what a network takes them for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mcbook.viz.figure import Figure, show
from mcbook.viz.style import INK, LIGHT, SINGLE, figure_style, new_figure
from mcbook.viz.wording import count, listed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["plot_images"]

_MOST = 200


def plot_images(
    x: Tensor | np.ndarray,
    labels: Sequence[Any] | Tensor | None = None,
    predictions: Sequence[Any] | Tensor | None = None,
    columns: int = 10,
    classes: Sequence[str] | None = None,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """A strip of images with their labels; wrong predictions are marked.

    Args:
        x: images `[n, c, h, w]` or `[n, h, w]` with values in [0, 1]; c is 1
            or 3.
        labels: the class of every image.
        predictions: what a network took every image for; an image with another
            class than its label gets a frame, a cross and both names.
        columns: how many images stand in a row.
        classes: names of the classes, where labels are numbers.
        alt: a text alternative in place of the composed one.
        caption: a line below the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    images = _as_images(x)
    true = _as_names(labels, classes, len(images), "labels")
    guessed = _as_names(predictions, classes, len(images), "predictions")
    if columns < 1:
        raise ValueError(f"expected at least one column, found {columns}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    # whole pixels between images, so that a row is one picture
    between = max(1, round(width / 10))
    gap, tile = between / width, 1.0
    line = 0.42 if true or guessed else 0.0
    aspect = height / width
    step_y = tile * aspect + gap + line
    total_w, total_h = columns * (tile + gap) - gap, rows * step_y - gap
    page = SINGLE[0] * min(1.0, columns / 10 + 0.25 * (columns < 8))
    with figure_style():
        from matplotlib.patches import Rectangle

        figure, axes = new_figure((page, page * total_h / total_w))
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.axis("off")
        axes.set_xlim(0, total_w)
        axes.set_ylim(total_h, 0)
        size = min(10.5, 0.3 * page / total_w)
        for row in range(rows):
            picture = _side_by_side(images[row * columns : (row + 1) * columns], between)
            box = (0, picture.shape[1] / width, row * step_y + tile * aspect, row * step_y)
            axes.imshow(picture, extent=box, interpolation="none")
        for index in range(len(images)):
            left, top = (index % columns) * (tile + gap), (index // columns) * step_y
            wrong = bool(true and guessed and true[index] != guessed[index])
            axes.add_patch(
                Rectangle(
                    (left, top),
                    tile,
                    tile * aspect,
                    fill=False,
                    edgecolor=LIGHT["vermillion"] if wrong else INK,
                    linewidth=2.2 if wrong else 0.6,
                    alpha=1.0 if wrong else 0.4,
                )
            )
            if line:
                axes.text(
                    left + tile / 2,
                    top + tile * aspect + 0.3,
                    f"✗ {guessed[index]}, is {true[index]}" if wrong else (true or guessed)[index],
                    ha="center",
                    va="baseline",
                    size=size * (0.82 if wrong else 1),
                    weight="bold" if wrong else "normal",
                    color=LIGHT["vermillion"] if wrong else INK,
                )
        axes.set_xlim(0, total_w)
        axes.set_ylim(total_h, 0)
        axes.set_aspect("auto")
    return show(figure, alt or _told(len(images), true, guessed), caption, name="images")


def _as_images(x: Tensor | np.ndarray) -> np.ndarray:
    array = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=float)
    if array.ndim == 4 and array.shape[1] in (1, 3):
        array = array[:, 0] if array.shape[1] == 1 else array.transpose(0, 2, 3, 1)
    elif array.ndim != 3:
        raise ValueError(
            f"expected images [n, h, w] or [n, c, h, w] with 1 or 3 channels, "
            f"found shape {list(array.shape)}"
        )
    if not 1 <= len(array) <= _MOST:
        raise ValueError(f"expected 1 to {_MOST} images, found {len(array)}")
    return np.clip(array, 0, 1)


def _side_by_side(images: np.ndarray, between: int) -> np.ndarray:
    """The images `[n, h, w]` or `[n, h, w, 3]` in a row, with nothing between them."""
    colors = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=-1)
    count, height, width, _ = colors.shape
    tiles = np.zeros((count, height, width + between, 4))
    tiles[:, :, :width, :3] = colors
    tiles[:, :, :width, 3] = 1.0
    return np.concatenate(tiles, axis=1)[:, :-between]


def _as_names(
    values: Sequence[Any] | Tensor | None, classes: Sequence[str] | None, images: int, what: str
) -> list[str]:
    if values is None:
        return []
    names = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(names) != images:
        raise ValueError(f"expected {what} for {images} images, found {len(names)}")
    return [str(name) if classes is None else str(classes[name]) for name in names]


def _told(images: int, true: list[str], guessed: list[str]) -> str:
    text = count(images, "image")
    if true:
        text += f", labelled {listed(true)}"
    if true and guessed:
        wrong = [
            f"number {place}, {a}, taken for {b}"
            for place, (a, b) in enumerate(zip(true, guessed, strict=True), start=1)
            if a != b
        ]
        text += "; all predicted right" if not wrong else f"; wrong: {'; '.join(wrong)}"
    elif guessed:
        text += f", predicted {listed(guessed)}"
    return text + "."
