"""The engine: the only place that runs and counts passes through a classifier."""
