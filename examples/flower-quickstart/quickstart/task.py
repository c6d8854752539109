"""Model, data and training, as in any Flower project: nothing here knows of pruning."""

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedbonsai.data.digits import load_digits


class Net(nn.Module):
    """A small CNN for images of 8x8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one score a class."""
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def load_data(partition_id: int, num_partitions: int, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Return loaders of a client's own images: four fifths to train, the rest to evaluate."""
    pool = load_digits().train
    mine = TensorDataset(*(one[partition_id::num_partitions] for one in (pool.inputs.float() / 16, pool.targets)))
    count = len(mine) * 4 // 5
    train, test = torch.utils.data.random_split(
        mine, [count, len(mine) - count], torch.Generator().manual_seed(partition_id)
    )
    return DataLoader(train, batch_size=batch_size, shuffle=True), DataLoader(test, batch_size=batch_size)


def load_test_data() -> DataLoader:
    """Return a loader of the images that no client has."""
    pool = load_digits().test
    return DataLoader(TensorDataset(pool.inputs.float() / 16, pool.targets), batch_size=128)


def train(net: nn.Module, loader: DataLoader, epochs: int, lr: float) -> float:
    """Train, and return the mean loss."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(net: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    net.eval()
    loss, right, count = 0.0, 0, 0
    for images, labels in loader:
        outputs = net(images)
        loss += F.cross_entropy(outputs, labels, reduction="sum").item()
        right += int((outputs.argmax(1) == labels).sum())
        count += len(labels)
    return loss / count, right / count
