"""Plots, sliders and in-page networks: everything that is looked at."""
