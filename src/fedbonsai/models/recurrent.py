"""A recurrent network that predicts the next token of a sequence."""

from torch import Tensor, nn

from fedbonsai.models.dense import scaled


class NextToken(nn.Module):
    """Embedding, LSTM, and a dense layer to the scores of every token.

    The shape of the LEAF model for Shakespeare, with one layer of 128 in place of two of 256, so
    that a client's round takes a second of one core rather than half a minute.
    """

    def __init__(self, tokens: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.out = nn.Linear(hidden, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token numbers ``(batch, time)`` to scores ``(batch, time, tokens)``."""
        states, _ = self.lstm(self.embedding(tokens))
        scores: Tensor = self.out(states)
        return scores


def lstm(_shape: tuple[int, ...], classes: int, width: float) -> nn.Module:
    """An embedding of 8 and one LSTM layer of 128, for sequences of any length."""
    return NextToken(classes, scaled(8, width), scaled(128, width))
