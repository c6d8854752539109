"""The networks in plain PyTorch, of torch's own layers."""

import torch
from layers import CHAINS, chain
from torch import nn
from torch.nn import functional

CLASSES = {"cifar": 10, "lenet": 10, "cnn": 10, "mlp": 10, "leaf": 62, "lstm": 80, "resnet": 10}

MAKERS = {
    "conv": lambda inputs, outputs, kernel, padding: nn.Conv2d(inputs, outputs, kernel, padding=padding),
    "linear": nn.Linear,
    "relu": nn.ReLU,
    "pool": lambda: nn.MaxPool2d(2),
    "flatten": nn.Flatten,
    "dropout": nn.Dropout,
}


class NextToken(nn.Module):
    """An embedding of 8, an LSTM of 128, and scores of 80 tokens."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(80, 8)
        self.lstm = nn.LSTM(8, 128, batch_first=True)
        self.out = nn.Linear(128, 80)

    def forward(self, tokens):
        """Map ``(batch, time)`` to ``(batch, time, tokens)``."""
        return self.out(self.lstm(self.embedding(tokens))[0])


class Block(nn.Module):
    """Two convolutions 3x3 with group norm, beside a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.GroupNorm(2, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(2, outputs),
        )
        self.shortcut = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(2, outputs))

    def forward(self, inputs):
        """Halve the image where the channels grow."""
        return functional.relu(self.body(inputs) + self.shortcut(inputs))


def resnet():
    """ResNet-18 with group norm and half of its channels."""
    layers = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.GroupNorm(2, 32), nn.ReLU()]
    inputs = 32
    for outputs, stride in ((32, 1), (64, 2), (128, 2), (256, 2)):
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def network(name, weights=None, dropout=True):
    """A network, with these weights if there are any, in the order of its parameters."""
    if name in CHAINS:
        model = nn.Sequential(*(MAKERS[kind](*sizes) for kind, *sizes in chain(name, dropout)))
    else:
        model = {"lstm": NextToken, "resnet": resnet}[name]()
    if weights is not None:
        set_weights(model, weights)
    return model


def set_weights(model, weights):
    """Copy weights, in the order of the parameters, into a model."""
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.as_tensor(value))


def cross_entropy(outputs, targets):
    """Mean cross-entropy of a batch; of sequences, of all their tokens."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def loss_of(model, inputs, targets):
    """Mean loss of a batch."""
    return cross_entropy(model(inputs), targets)
