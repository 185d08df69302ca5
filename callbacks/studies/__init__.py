"""Studies: a few images explained again under other conditions."""
