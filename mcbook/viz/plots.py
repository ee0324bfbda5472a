"""The plots of the book; each returns an accessible `Figure`.

| function | shows |
|---|---|
| `plot_profile` | loss and accuracy along one path or several |
| `plot_profile_band` | the curves of many pairs, their mean and how sure it is |
| `plot_history` | loss and accuracy over the epochs |
| `plot_barriers` | barriers over what was varied, pair by pair |
| `plot_images` | images with labels and predictions |
| `plot_lines` | anything over a number: means over pairs, with their intervals |
| `plot_points` | two measurements against each other |
| `plot_matrices` | small matrices as fields of squares |
| `plot_plane` | the loss over a plane in weight space |
| `plot_simplex` | ways of a distribution through the triangle of three classes |
| `plot_spheres` | the deviation of every tensor, and how nearly networks agree |
| `plot_symmetry` | the tensors of a network, with the spaces that act on them |
| `plot_walk` | the distances left and the loss along a layer-wise walk |

Every text alternative states the numbers; `alt=` replaces it.
"""

from __future__ import annotations

from mcbook.viz.barriers import plot_barriers
from mcbook.viz.curves import plot_profile, plot_profile_band
from mcbook.viz.figure import Figure, show
from mcbook.viz.histories import plot_history
from mcbook.viz.images import plot_images
from mcbook.viz.lines import plot_lines
from mcbook.viz.matrices import plot_matrices
from mcbook.viz.plane import plot_plane
from mcbook.viz.points import plot_points
from mcbook.viz.simplex import plot_simplex
from mcbook.viz.spheres import plot_spheres
from mcbook.viz.symmetry import plot_symmetry
from mcbook.viz.walks import plot_walk

__all__ = [
    "Figure",
    "plot_barriers",
    "plot_history",
    "plot_images",
    "plot_lines",
    "plot_matrices",
    "plot_plane",
    "plot_points",
    "plot_profile",
    "plot_profile_band",
    "plot_simplex",
    "plot_spheres",
    "plot_symmetry",
    "plot_walk",
    "show",
]
