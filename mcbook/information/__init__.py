"""The geometry of predictive distributions: distances, lengths, and what they certify."""

from .certificates import Certificate, certify, fisher_lower_bound, js_lower_bound
from .distances import fisher_distance, js_divergence, log_probabilities
from .fisher import fisher_energy, fisher_length, fisher_speed, js_length

__all__ = [
    "Certificate",
    "certify",
    "fisher_distance",
    "fisher_energy",
    "fisher_length",
    "fisher_lower_bound",
    "fisher_speed",
    "js_divergence",
    "js_length",
    "js_lower_bound",
    "log_probabilities",
]
