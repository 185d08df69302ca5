"""Data sets of images: packed shards or plain folders, loaded as batches for training and evaluation."""

from data.datamodule import ShardDataModule

__all__ = ["ShardDataModule"]
