"""From a batch of images to rows of a table: what evaluate.py and `dre.evaluate` share, and what compares and shows."""
