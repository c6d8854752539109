"""Networks by name. Listing them needs no torch; building one does (`fedbonsai.models.build`)."""

from collections.abc import Mapping

MODELS: Mapping[str, str] = {
    "cnn": "example CNN: conv 3x3 of 32, max-pool, dense 64; images",
    "mlp": "two hidden layers of 200; images and columns of numbers",
    "lenet5": "LeNet-5: conv 5x5 of 6 and 16, dense 120 and 84; images",
    "leaf_cnn": "CNN of the LEAF benchmark: conv 5x5 of 32 and 64, dense 2048; images",
    "resnet18": "ResNet-18 for small images, with group or batch norm; images",
    "lstm": "embedding, one LSTM layer of 128; next token of a sequence",
}
"""What each network is and what it takes."""

SEQUENCE_MODELS = frozenset({"lstm"})
"""The models that read tokens and predict the next one at every step; the others classify."""

__all__ = ["MODELS", "SEQUENCE_MODELS"]
