"""The server's half of the drop-in: a strategy around a strategy, which prunes, packs, checks and counts."""

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Annotated, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedbonsai.core.errors import ClientError, ConfigError
from fedbonsai.core.fields import DENSITY, PART, check
from fedbonsai.core.support import Support
from fedbonsai.flower.arrays import Model, blob_of, packed, plain_length, read_update, record_of
from fedbonsai.flower.replies import logger, require_weight, usable
from fedbonsai.flower.rounds import Round, table
from fedbonsai.sparsity.schedules import Ramp, Shape
from fedbonsai.sparsity.selection import Selection

Values = Literal["fp32", "bf16", "fp16", "int8", "int4"]


@dataclass(eq=False)
class Pruned(Strategy):
    """Prune the model of a strategy while it trains, and send only what is left: ``Pruned(FedAvg(), density=0.1)``.

    Works around every strategy of Flower that exchanges and aggregates one model as an ArrayRecord, such as FedAvg, the
    FedOpt family, FedProx, FedMedian, Krum; differential privacy goes inside. Clients need `pruning_mod`. After each
    aggregation the smallest weights of all layers together are pruned, down to a density that falls along a ramp
    (FedSparsify, Stripelis et al. 2022, the global variant). A pruned weight does not return. Only floats of two or
    more dimensions are pruned, every layer keeps at least one weight; all else, such as biases, batch norm and
    counters, travels whole and keeps its type.

    A reply that cannot be used (bytes that are no message, another model, another mask, a value that is not finite, a
    weight that is not in (0, 1e9], records unlike those of most others) is dropped with a line in the log and the round
    goes on. An aggregate that is not finite is not applied.

    Attributes:
        strategy: The strategy that samples clients and aggregates.
        density: Share of the prunable weights to keep in the end.
        warmup: Share of the rounds that stay dense.
        reach: Share of the rounds after which the density is reached.
        schedule: How the density falls in between.
        downlink: How weights are coded on their way to clients; all but ``fp32`` lose some digits.
        uplink: The same on their way back.
        num_rounds: Rounds of the run; `start` fills it in.
        rounds: What each round moved, from `start` on.

    Raises:
        ConfigError: A setting is out of range, or ``strategy`` is not one of ``flwr.serverapp.strategy``.
    """

    strategy: Strategy
    _: KW_ONLY
    density: Annotated[float, DENSITY] = 0.1
    warmup: Annotated[float, PART] = 0.0
    reach: Annotated[float, DENSITY] = 0.75
    schedule: Shape = "cubic"
    downlink: Values = "fp32"
    uplink: Values = "fp32"
    num_rounds: int | None = None
    rounds: list[Round] = field(default_factory=list, init=False)
    _model: Model | None = field(default=None, init=False, repr=False)
    _supports: dict[str, Support] = field(default_factory=dict, init=False, repr=False)
    _last: tuple[ArrayRecord, ArrayRecord] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check(self)
        if not isinstance(self.strategy, Strategy):
            raise ConfigError(
                f"Pruned wraps a strategy of flwr.serverapp.strategy, got {type(self.strategy).__module__}."
                f"{type(self.strategy).__name__}"
            )
        if self.warmup > self.reach:
            raise ConfigError(f"warmup must not be later than reach, got {self.warmup} and {self.reach}")

    def start(  # noqa: PLR0913, PLR0917 - Flower's signature
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run all rounds, as `Strategy.start` does, from a dense model on; the table of the rounds ends the log.

        Raises:
            ConfigError: The model has nothing to prune, or too little for this density.
        """
        self.num_rounds, self.rounds, self._model, self._supports = num_rounds, [], None, {}
        self._model_of(initial_arrays)
        result = super().start(grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)
        for line in table(self.rounds):
            logger.info(line)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Have the wrapped strategy make the messages, and pack the models in them."""
        self._model_of(arrays)
        self.rounds.append(Round(server_round, self._density))
        messages = self._sent(self.strategy.configure_train(server_round, arrays, config, grid))
        bare = [one for one in messages if not any(map(blob_of, one.content.array_records.values()))]
        if bare:
            raise ConfigError(
                "the wrapped strategy must send the model, an ArrayRecord with the tensors of the initial one; got "
                f"{sorted(bare[0].content)} in a message"
            )
        self._count(asked=len(messages))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Unpack the replies, have the wrapped strategy aggregate those that can be used, and prune the result.

        What the round cost is added to the metrics: ``pruned-density``, ``pruned-bytes-down``, ``pruned-bytes-up`` and
        ``pruned-bytes-dense``, which plain Flower would have sent in both directions.
        """
        kept = usable(replies, self._unpacked)
        self._count(counted=sum(not reply.has_error() for reply in kept))
        arrays, metrics = self.strategy.aggregate_train(server_round, kept)
        if arrays is not None:
            arrays = self._pruned(server_round, arrays)
        if metrics is not None:
            metrics.update(self._costs())
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Have the wrapped strategy make the messages, and pack the models in them."""
        self._model_of(arrays)
        return self._sent(self.strategy.configure_evaluate(server_round, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Have the wrapped strategy aggregate the replies that can be used."""
        return self.strategy.aggregate_evaluate(server_round, usable(replies, self._weighed))

    def summary(self) -> None:
        """Log the settings, then those of the wrapped strategy."""
        logger.info(
            "\t├──> Pruned to density %g: %s from %g to %g of the rounds, values %s down, %s up",
            *(self.density, self.schedule, self.warmup, self.reach, self.downlink, self.uplink),
        )
        self.strategy.summary()

    @property
    def _density(self) -> float:
        """Share of the prunable weights that is present now."""
        return 1.0 if self._model is None else self._model.layout.density(self._supports)

    def _ramp(self) -> Ramp:
        if self.num_rounds is None:
            raise ConfigError("Pruned must know how long the run is: call start, or give num_rounds")
        end = max(1, round(self.reach * self.num_rounds))
        return Ramp(min(round(self.warmup * self.num_rounds), end - 1), end, self.density, self.schedule)

    def _model_of(self, arrays: ArrayRecord) -> Model:
        """What the model looks like: as the first arrays of a run do."""
        if self._model is None:
            self._ramp()
            model = Model.of(arrays)
            tensors = model.tensors(arrays)
            model = replace(model, infinite=frozenset(k for k, one in tensors.items() if not one.isfinite().all()))
            if self.density < 1:
                Selection(model.layout).require(self.density)
            self._model = model
        return self._model

    def _count(self, **amounts: int) -> None:
        """Add to what the round that is under way has moved."""
        if self.rounds:
            last = self.rounds[-1]
            self.rounds[-1] = replace(last, **{name: getattr(last, name) + one for name, one in amounts.items()})

    def _costs(self) -> dict[str, float | int]:
        last = self.rounds[-1]
        return {
            "pruned-density": last.density,
            "pruned-bytes-down": last.down,
            "pruned-bytes-up": last.up,
            "pruned-bytes-dense": last.dense_down + last.dense_up,
        }

    def _sent(self, messages: Iterable[Message]) -> list[Message]:
        """Pack the model in each message; those that share a content go on sharing it, so that it is uploaded once."""
        sent, contents = list(messages), dict[int, tuple[RecordDict, RecordDict]]()
        for message in sent:
            known = contents.get(id(message.content))
            if known is None:
                known = message.content, self._packed(message.content)
                contents[id(message.content)] = known
            self._count(**_lengths(*known))
            message.content = known[1]
        return sent

    def _packed(self, content: RecordDict) -> RecordDict:
        records = {
            name: self._blob(one) for name, one in content.array_records.items() if self._model_of(one).fits(one)
        }
        return RecordDict({**content, **records})

    def _blob(self, record: ArrayRecord) -> ArrayRecord:
        """Pack a model, once for the evaluation of one round and the training of the next."""
        if self._last is None or not _same_bytes(self._last[0], record):
            tensors = self._model_of(record).tensors(record)
            # A copy, because a project may empty the record that it was given.
            self._last = record.copy(), packed(tensors, self._supports, self.downlink, self.uplink)
        return self._last[1]

    def _unpacked(self, reply: Message) -> None:
        """Put the whole model in place of the packed one."""
        content = reply.content
        found = {name: blob_of(record) for name, record in content.array_records.items()}
        blobs = {name: data for name, data in found.items() if data is not None}
        if self._model is None or not blobs:
            raise ClientError("no packed model in the reply; the client needs ClientApp(mods=[pruning_mod])")
        dense = self._last[0] if self._last else ArrayRecord()
        self._count(up=sum(map(len, blobs.values())), dense_up=len(blobs) * plain_length(dense))
        self._weighed(reply)
        whole = {name: record_of(read_update(data, self._model, self._supports)) for name, data in blobs.items()}
        reply.content = RecordDict({**content, **whole})

    def _weighed(self, reply: Message) -> None:
        require_weight(reply.content, getattr(self.strategy, "weighted_by_key", None))

    def _pruned(self, server_round: int, arrays: ArrayRecord) -> ArrayRecord | None:
        """Prune what was aggregated to the density of this round; None if it cannot be used."""
        model = self._model_of(arrays)
        if not model.fits(arrays):
            raise ConfigError("the wrapped strategy must aggregate the model, tensors of the same names and shapes")
        try:
            tensors = model.tensors(arrays)
            model.require_finite(tensors)
        except ClientError as error:
            logger.warning("\t> Round %d is not applied: %s", server_round, error)
            return None
        density = self._ramp().density(server_round - 1)
        if density < 1:
            self._supports = Selection(model.layout).largest(tensors, self._supports, density)
        self.rounds[-1] = replace(self.rounds[-1], density=self._density)
        cut = {
            name: self._supports[name].apply(one) if name in self._supports else one for name, one in tensors.items()
        }
        return record_of(cut)


def _lengths(plain: RecordDict, sent: RecordDict) -> dict[str, int]:
    """Bytes of the packed models of a message, and what they were before."""
    names = [name for name, one in sent.array_records.items() if blob_of(one) is not None]
    return {
        "down": sum(plain_length(sent.array_records[name]) for name in names),
        "dense_down": sum(plain_length(plain.array_records[name]) for name in names),
    }


def _same_bytes(one: ArrayRecord, other: ArrayRecord) -> bool:
    return list(one) == list(other) and all(a.data is b.data for a, b in zip(one.values(), other.values(), strict=True))
