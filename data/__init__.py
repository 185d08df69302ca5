"""Images in: packed shards or plain folders, as batches for training and evaluation."""

from data.datamodule import ShardDataModule

__all__ = ["ShardDataModule"]
