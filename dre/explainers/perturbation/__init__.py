"""Perturbation explainers: masks that are sampled or optimised."""
