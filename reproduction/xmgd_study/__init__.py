"""The study of distances between the maps of explainers."""
