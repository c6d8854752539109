"""The networks that are a chain of layers, as data, so that every framework builds the very same."""

LENET = [
    ("conv", 3, 6, 5, 0),
    ("relu",),
    ("pool",),
    ("conv", 6, 16, 5, 0),
    ("relu",),
    ("pool",),
    ("flatten",),
    ("linear", 400, 120),
    ("relu",),
    ("linear", 120, 84),
    ("relu",),
    ("linear", 84, 10),
]

# simple_cnn of pfl-research's benchmarks.
CNN = [
    ("conv", 3, 32, 3, 0),
    ("relu",),
    ("conv", 32, 64, 3, 0),
    ("relu",),
    ("pool",),
    ("dropout", 0.25),
    ("flatten",),
    ("linear", 12544, 128),
    ("relu",),
    ("dropout", 0.5),
    ("linear", 128, 10),
]

MLP = [("linear", 64, 128), ("relu",), ("linear", 128, 10)]

LEAF = [
    ("conv", 1, 32, 5, 2),
    ("relu",),
    ("pool",),
    ("conv", 32, 64, 5, 2),
    ("relu",),
    ("pool",),
    ("flatten",),
    ("linear", 3136, 2048),
    ("relu",),
    ("linear", 2048, 62),
]

# Two wide convolutions, as in TensorFlow's tutorial for CIFAR-10 and much that is written on it.
CIFAR = [
    ("conv", 3, 32, 5, 2),
    ("relu",),
    ("pool",),
    ("conv", 32, 64, 5, 2),
    ("relu",),
    ("pool",),
    ("flatten",),
    ("linear", 4096, 128),
    ("relu",),
    ("linear", 128, 10),
]

CHAINS = {"cifar": CIFAR, "lenet": LENET, "cnn": CNN, "mlp": MLP, "leaf": LEAF}
"""A convolution has inputs, outputs, kernel and padding; dropout has its share; pools halve."""


def chain(name: str, dropout: bool) -> list[tuple]:
    """The layers of a network, without its dropout if that is not wanted."""
    return [layer for layer in CHAINS[name] if dropout or layer[0] != "dropout"]
