"""A control that trains two networks anew: where a kernel pays."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets

from ..analysis.profiles import Profile, profile
from ..models.registry import build_model
from ..paths.linear import LinearPath
from ..training import train
from .path_slider import PathSlider

if TYPE_CHECKING:
    from ..data import Data

__all__ = ["RetrainControl", "measure_pair"]

KEPT = 4  # earlier results stay on the slider, for comparison
MOST_WIDTH = 4096
# what a choice of seeds, widths and recipe can cause; anything else is a fault of the code and
# is left to be seen
EXPECTED_ERRORS = (ValueError, LookupError, ArithmeticError, RuntimeError, OSError, TypeError)


def measure_pair(
    data: Data,
    seeds: tuple[int, int],
    width: int,
    model: str = "mlp",
    points: int = 51,
    depth: int = 1,
    said: Callable[[str], None] = lambda text: None,
    **recipe: Any,
) -> Profile:
    """Train two networks, each from a seed of its own, and measure the line between them.

    Args:
        data: what to train on and to measure on.
        seeds: of A and B: of the initial weights and of the order of the images.
        width: units of every hidden layer.
        model: the name of the architecture.
        points: how many points of the line are measured.
        depth: how many hidden layers have that width; above 1 the architecture must take a
            sequence of widths.
        said: told what is being done.
        **recipe: for `mc.train`.

    Returns:
        The profile of the straight line from A to B.
    """
    ends = []
    for name, seed in zip("AB", seeds, strict=True):
        said(f"Training network {name} (seed {seed}, width {width}) …")
        start = build_model(model, data, width=width if depth == 1 else (width,) * depth, seed=seed)
        ends.append(train(start, data, seed=seed, progress=False, **recipe))
    said(f"Measuring {points} points between them …")
    return profile(LinearPath(*ends), data, points=points, progress=False)


class RetrainControl(ipywidgets.VBox):
    """Choose seeds and width, press Train, and see the wall between two new networks.

    With a kernel the two networks are trained and the line between them is measured; earlier
    results stay on the slider.  Without a kernel, in the static page, there is a picture of the
    result of the first settings and a sentence that says so.

    Args:
        data: what to train on.
        seeds: of A and B at first.
        width: of every hidden layer at first.
        model: the architecture; it must take `width`.
        points: how many points of the line are measured.
        depth: how many hidden layers of that width; see `measure_pair`.
        profile: the result of the first settings, if it is there already; else it is made.
        **recipe: for `mc.train`, for instance `epochs=20, lr=0.1`.

    Attributes:
        profiles: the results by name, the newest last.
        slider: the `PathSlider` that shows them.

    Raises:
        ValueError: when there are not two seeds, or the width is not a number from 1 to 4096.
    """

    # ipywidgets 7 shows a widget by this method and would never ask for the text/html
    _ipython_display_ = None

    def __init__(
        self,
        data: Data,
        seeds: Sequence[int] = (0, 1),
        width: int = 32,
        *,
        model: str = "mlp",
        points: int = 51,
        depth: int = 1,
        profile: Profile | None = None,
        **recipe: Any,
    ):
        if len(seeds) != 2:
            raise ValueError(f"expected two seeds, one for each network, found {list(seeds)}")
        if not isinstance(width, int) or not 1 <= width <= MOST_WIDTH:
            raise ValueError(f"expected a width from 1 to {MOST_WIDTH}, found {width!r}")
        self._data, self._options = (
            data,
            {**recipe, "model": model, "points": points, "depth": depth},
        )
        self._first = (int(seeds[0]), int(seeds[1])), width
        if profile is None:
            profile = measure_pair(data, self._first[0], width, **self._options)
        self._first_profile = profile
        self.profiles: dict[str, Profile] = {_name(*self._first): profile}
        self.slider = PathSlider(self.profiles, title=self._title())

        narrow = ipywidgets.Layout(width="11em")
        style = {"description_width": "5em"}
        self.seed_a, self.seed_b = (
            ipywidgets.BoundedIntText(
                value=seed, min=0, max=2**31 - 1, description=f"seed of {name}",
                layout=narrow, style=style,
            )
            for name, seed in zip("AB", seeds, strict=True)
        )  # fmt: skip
        self.width_box = ipywidgets.BoundedIntText(
            value=width, min=1, max=MOST_WIDTH, description="width", layout=narrow, style=style
        )
        self.button = ipywidgets.Button(
            description="Train",
            button_style="primary",
            tooltip="Train two networks and measure the line between them",
        )
        self.button.on_click(self._pressed)
        self.status = ipywidgets.HTML()
        self._say("Ready.")
        row = ipywidgets.HBox(
            [self.seed_a, self.seed_b, self.width_box, self.button],
            layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        super().__init__([row, self.status, self.slider])

    def retrain(self) -> Profile:
        """Train with the settings of the boxes, measure, and show the result.

        Returns:
            What was measured.
        """
        seeds, width = (self.seed_a.value, self.seed_b.value), self.width_box.value
        result = measure_pair(self._data, seeds, width, said=self._say, **self._options)
        name = _name(seeds, width)
        earlier = {key: value for key, value in self.profiles.items() if key != name}
        self.profiles = {**dict(list(earlier.items())[-(KEPT - 1) :]), name: result}
        self.slider.show(self.profiles, title=self._title())
        self._say(f"{name}: test loss barrier {result.barrier('test', 'loss'):.3g}.")
        return result

    def _pressed(self, _: ipywidgets.Button) -> None:
        """Train once; the button stays off until that is done, or has failed."""
        self.button.disabled = True
        try:
            self.retrain()
        except EXPECTED_ERRORS as error:
            self._say(f"{type(error).__name__}: {error}", alert=True)
        except KeyboardInterrupt:
            self._say("Interrupted; the earlier results are still there.")
        finally:
            self.button.disabled = False

    def _say(self, text: str, alert: bool = False) -> None:
        role = "alert" if alert else "status"
        weight = "font-weight:600" if alert else ""
        self.status.value = f'<div role="{role}" style="{weight}">{html.escape(text)}</div>'

    def _title(self) -> str:
        return f"Between two networks trained on {self._data.name}"

    def still(self) -> str:
        """The picture of the first settings, as HTML for a page without a kernel."""
        (a, b), width = self._first
        first = self._first_profile
        # the figure stands first and on its own: its style sheet knows it there
        return (
            f"{first.plot().html()}\n"
            '<p style="max-width:40rem;margin:.6em 0 1em;font-size:.9em;color:inherit">'
            f"Seeds {a} and {b}, width {width}. Other seeds and widths can be trained only "
            "where a kernel runs: open this chapter in Colab or JupyterLab, run it, and "
            "this picture becomes a control with a Train button.</p>"
        )

    def __repr__(self) -> str:
        """The first settings and their barrier: the same text for the same content."""
        barrier = self._first_profile.barrier("test", "loss")
        return f"RetrainControl({_name(*self._first)}: test loss barrier {barrier:.3g})"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {
            "text/plain": repr(self),
            "text/html": self.still(),
            "application/vnd.jupyter.widget-view+json": view,
        }


def _name(seeds: tuple[int, int], width: int) -> str:
    return f"width {width}, seeds {seeds[0]} and {seeds[1]}"
