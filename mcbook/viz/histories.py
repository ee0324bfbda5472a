"""Loss and accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mcbook.viz.figure import Figure, show
from mcbook.viz.panels import What, add_legend, kinds_of, set_limits, some
from mcbook.viz.style import PANEL, SINGLE, figure_style, new_figure, series
from mcbook.viz.wording import labelled, quantity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["plot_history"]


def plot_history(
    histories: pd.DataFrame | Mapping[str, pd.DataFrame],
    what: What = "both",
    log_loss: bool = False,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Loss and accuracy over the epochs of one training or of several.

    Args:
        histories: the `.history` of a trained model, or histories by label.
        what: "loss", "accuracy", or "both" in two panels.
        log_loss: draw the loss on a logarithmic axis.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, or a column is missing.
    """
    import pandas as pd
    from matplotlib.ticker import MaxNLocator

    tables = dict(histories) if isinstance(histories, Mapping) else {"": histories}
    if not tables:
        raise ValueError("expected at least one history, found none")
    kinds = kinds_of(what)
    for label, table in tables.items():
        wanted = ["epoch", *(f"{split}_{kind}" for split in ("train", "test") for kind in kinds)]
        missing = [column for column in wanted if column not in table.columns]
        if missing or not len(table):
            found = ", ".join(map(str, table.columns)) if missing else "no rows"
            raise ValueError(f"expected the columns {wanted} in history {label!r}, found {found}")
    sentences: list[str] = []
    with figure_style():
        panels = []
        for kind in kinds:
            figure, axes = new_figure(PANEL if len(kinds) > 1 else SINGLE)
            panels.append(figure)
            values = []
            for place, (label, table) in enumerate(tables.items()):
                for split in ("test", "train"):
                    look = series(place if len(tables) > 1 else ("test", "train").index(split))
                    y = table[f"{split}_{kind}"].to_numpy(dtype=float)
                    values.append(y)
                    axes.plot(
                        table["epoch"],
                        y,
                        color=look.color,
                        linestyle="-" if split == "test" else (0, (4, 2)),
                        linewidth=2.0 if split == "test" else 1.2,
                        marker=look.marker if len(tables) > 1 and split == "test" else None,
                        markevery=some(len(y), place),
                        label=f"{label}, {split}" if label else split,
                    )
                test = table[f"test_{kind}"].to_numpy(dtype=float)
                sentences.append(
                    labelled(
                        label,
                        f"test {kind} {quantity(test[0], kind)} after epoch "
                        f"{table['epoch'].iloc[0]:g}, {quantity(test[-1], kind)} after epoch "
                        f"{table['epoch'].iloc[-1]:g}",
                    )
                )
            if kind == "loss" and log_loss:
                axes.set_yscale("log")
            else:
                set_limits(axes, np.concatenate(values), kind)
            axes.set_title(kind.capitalize())
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            add_legend(figure, axes)
    table = pd.concat(
        [frame.assign(label=label)[["label", *frame.columns]] for label, frame in tables.items()]
    )
    if set(tables) == {""}:
        table = table.drop(columns="label")
    return show(panels, alt or " ".join(sentences), caption, table, name="history")
