"""The small convolutional network for grey digits of 28 x 28 pixels."""

from torch import Tensor, nn


class MNISTCNN(nn.Module):
    """Two convolutions of 5 x 5, each followed by 2 x 2 max pooling and a ReLU, and one linear layer.

    Without padding the last map has 64 x 4 x 4 = 1,024 values, which are the inputs that the paper gives to its
    fully connected layer.

    Args:
        num_classes: Size of the head.

    Source: paper 004, "Training on MNIST Dataset".
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU()
        )
        self.flatten = nn.Flatten()
        self.head = nn.Linear(64 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of normalised images [B, 1, 28, 28]."""
        logits: Tensor = self.head(self.flatten(self.features(images)))
        return logits
