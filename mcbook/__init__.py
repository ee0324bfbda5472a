"""Mode connectivity: paths of low loss between neural networks.

Endpoints → alignment → path → profile → figure: the package has one place for each arrow.
Importing it needs torch, numpy, scipy, pandas and safetensors only; plotting and widgets are
imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import models, weights
from .alignment import (
    Alignment,
    activation_matching,
    match_many,
    proximal_alternating,
    straight_through,
    weight_matching,
)
from .analysis.barrier_bound import BarrierBound, barrier_bound
from .analysis.blending import logit_blend
from .analysis.commutativity import commutativity
from .analysis.defects import feature_defects
from .analysis.features import feature_connectivity
from .analysis.layer_barriers import LayerBarriers, layer_barriers
from .analysis.planes import LossPlane, curve_plane, loss_plane
from .analysis.profiles import Profile, profile
from .analysis.robust_profiles import robust_profile
from .analysis.signature import correlation_signature, path_signature
from .analysis.singular_products import SingularProducts, singular_products
from .analysis.spectra import (
    SingularAlignment,
    low_rank,
    singular_alignment,
    singular_values,
    stable_rank,
)
from .analysis.statistics import interval
from .analysis.stitching import stitch
from .analysis.taylor import TaylorProfile, taylor_profile
from .analysis.weak_additivity import weak_additivity
from .data import Data, Split, data_from_arrays, default_device, list_data, load_data
from .ensembling import ensemble, path_ensemble
from .errors import DamagedFileError, IncompatibleError, MissingDataError, UnknownNameError
from .evaluation import evaluate
from .information import (
    Certificate,
    certify,
    fisher_distance,
    fisher_energy,
    fisher_length,
    fisher_lower_bound,
    fisher_speed,
    js_divergence,
    js_length,
    js_lower_bound,
    log_probabilities,
)
from .models.registry import build_model, describe_models, list_models
from .normalization import has_batch_norm, reset_batch_norm
from .paths import BezierPath, LinearPath, Path, PolychainPath, load_path
from .paths.curve_fitting import fit_curve
from .paths.elastic_band import elastic_band
from .paths.geodesic import fit_geodesic
from .paths.layerwise import LayerwisePath, layerwise_path
from .paths.origin import path_to_origin
from .paths.spheres import variance_spheres
from .paths.stages import flow_stages
from .records import Record, list_records, load_record, save_record
from .repair import repair
from .robustness import PGD, robust_evaluate
from .saving import load_model, save_model
from .settings import begin_chapter
from .symmetry import Permutation, PermutationSpec, TraceError, permute, trace_symmetry
from .training import spawn, train
from .verdicts import verdict

if TYPE_CHECKING:
    from .viz.curve_slider import CurveSlider
    from .viz.feature_slider import FeatureSlider
    from .viz.figure import Figure, show
    from .viz.geodesic_slider import GeodesicSlider
    from .viz.network_slider import NetworkSlider
    from .viz.path_slider import PathSlider
    from .viz.permutation_slider import PermutationSlider
    from .viz.plots import (
        plot_barriers,
        plot_history,
        plot_images,
        plot_lines,
        plot_matrices,
        plot_plane,
        plot_points,
        plot_profile,
        plot_profile_band,
        plot_simplex,
        plot_spheres,
        plot_symmetry,
        plot_walk,
    )
    from .viz.retrain import RetrainControl
    from .viz.walk_slider import WalkSlider

# what needs matplotlib, anywidget or ipywidgets is imported at its first use
_LAZY = {
    "CurveSlider": ".viz.curve_slider",
    "FeatureSlider": ".viz.feature_slider",
    "Figure": ".viz.figure",
    "GeodesicSlider": ".viz.geodesic_slider",
    "NetworkSlider": ".viz.network_slider",
    "PathSlider": ".viz.path_slider",
    "PermutationSlider": ".viz.permutation_slider",
    "RetrainControl": ".viz.retrain",
    "WalkSlider": ".viz.walk_slider",
    "plot_barriers": ".viz.plots",
    "plot_history": ".viz.plots",
    "plot_images": ".viz.plots",
    "plot_lines": ".viz.plots",
    "plot_matrices": ".viz.plots",
    "plot_plane": ".viz.plots",
    "plot_points": ".viz.plots",
    "plot_profile": ".viz.plots",
    "plot_profile_band": ".viz.plots",
    "plot_simplex": ".viz.plots",
    "plot_spheres": ".viz.plots",
    "plot_symmetry": ".viz.plots",
    "plot_walk": ".viz.plots",
    "show": ".viz.figure",
}

__all__ = [
    "PGD",
    "Alignment",
    "BarrierBound",
    "BezierPath",
    "Certificate",
    "CurveSlider",
    "DamagedFileError",
    "Data",
    "FeatureSlider",
    "Figure",
    "GeodesicSlider",
    "IncompatibleError",
    "LayerBarriers",
    "LayerwisePath",
    "LinearPath",
    "LossPlane",
    "MissingDataError",
    "NetworkSlider",
    "Path",
    "PathSlider",
    "Permutation",
    "PermutationSlider",
    "PermutationSpec",
    "PolychainPath",
    "Profile",
    "Record",
    "RetrainControl",
    "SingularAlignment",
    "SingularProducts",
    "Split",
    "TaylorProfile",
    "TraceError",
    "UnknownNameError",
    "WalkSlider",
    "activation_matching",
    "barrier_bound",
    "begin_chapter",
    "build_model",
    "certify",
    "commutativity",
    "correlation_signature",
    "curve_plane",
    "data_from_arrays",
    "default_device",
    "describe_models",
    "elastic_band",
    "ensemble",
    "evaluate",
    "feature_connectivity",
    "feature_defects",
    "fisher_distance",
    "fisher_energy",
    "fisher_length",
    "fisher_lower_bound",
    "fisher_speed",
    "fit_curve",
    "fit_geodesic",
    "flow_stages",
    "has_batch_norm",
    "interval",
    "js_divergence",
    "js_length",
    "js_lower_bound",
    "layer_barriers",
    "layerwise_path",
    "list_data",
    "list_models",
    "list_records",
    "load_data",
    "load_model",
    "load_path",
    "load_record",
    "log_probabilities",
    "logit_blend",
    "loss_plane",
    "low_rank",
    "match_many",
    "models",
    "path_ensemble",
    "path_signature",
    "path_to_origin",
    "permute",
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
    "profile",
    "proximal_alternating",
    "repair",
    "reset_batch_norm",
    "robust_evaluate",
    "robust_profile",
    "save_model",
    "save_record",
    "show",
    "singular_alignment",
    "singular_products",
    "singular_values",
    "spawn",
    "stable_rank",
    "stitch",
    "straight_through",
    "taylor_profile",
    "trace_symmetry",
    "train",
    "variance_spheres",
    "verdict",
    "weak_additivity",
    "weight_matching",
    "weights",
]


def __getattr__(name: str) -> Any:
    """Import plotting and widgets when they are first asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
