"""A client as the network sees it: bytes in, bytes out. It never raises; what goes wrong is its answer."""

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace

from fedbonsai import wire
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory
from fedbonsai.federated.aggregate import contribution
from fedbonsai.federated.method import Method, PersonalMethod
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.work import NormPolicy

logger = logging.getLogger(__name__)

EVALUATE, STATISTICS, FAILED = "evaluate", "statistics", "failed"
"""Stages that every client answers, whatever the method; and the stage of an answer that says why there is none."""


@dataclass
class Client:
    """Serves tasks. One object serves any number of simulated clients in turn, or the one of a real device.

    Attributes:
        method: The method, the same as the server's.
        bench: Model and data.
        norm_policy: What happens to batch-norm statistics: ``average`` shares them, ``local`` keeps them here,
            ``static`` does neither (the server asks for them in a stage of its own).
        memories: What each client keeps between rounds.
    """

    method: Method
    bench: Bench
    norm_policy: NormPolicy = "average"
    memories: MutableMapping[int, Memory] = field(default_factory=dict)

    def serve(self, data: bytes) -> bytes:
        """Do what a task asks for and return the encoded answer."""
        task = Message()
        self._spent()  # what a server has computed on the same bench is not this client's work
        try:
            task = wire.decode(data, limits=self._limits)
            answer = self._work(task)
        except Exception as error:  # whatever one client raises must not end the round of the others
            logger.debug("client %d failed", task.client, exc_info=True)
            answer = Message(stage=FAILED, note=f"{type(error).__name__}: {error}"[:500])
        answer = replace(answer, round=task.round, client=task.client)
        return wire.encode(answer.with_numbers(flops=self._spent()))

    def _work(self, task: Message) -> Message:
        memory = self.memories.get(task.client, Memory())
        learner = Learner(
            self.bench,
            task.client,
            task.round,
            task.numbers.get("progress", 0.0),
            buffers=dict(memory.section("buffers").tensors),
            keep_buffers=self.norm_policy == "local",
        )
        if task.stage == EVALUATE:
            return self._evaluate(task, memory.section("method"), learner)
        if task.stage == STATISTICS:
            found = learner.statistics(task.dense())
            return replace(contribution(found, None, learner.num_examples), stage=STATISTICS)
        update, kept = self.method.work(task, memory.section("method"), learner)
        self.memories[task.client] = kept.under("method").merge(Memory(learner.buffers).under("buffers"))
        return replace(update, stage=task.stage)

    def _evaluate(self, task: Message, memory: Memory, learner: Learner) -> Message:
        """Judge the client's own model on data that nothing else has seen."""
        if isinstance(self.method, PersonalMethod):
            weights = self.method.personal_model(task, memory, learner)
        elif self.norm_policy == "local":
            weights = task.dense()
        else:
            raise ConfigError(f"{self.method.name} has no personal models to evaluate")
        own = learner.evaluate(weights, "holdout")
        sums = {"loss": own.loss * own.examples, "metric": own.metric * own.examples}
        return Message({}, sums, weight=float(own.examples), stage=EVALUATE)

    def _spent(self) -> float:
        spent, self.bench.meter.flops = self.bench.meter.flops, 0
        return float(spent)

    @property
    def _limits(self) -> wire.Limits:
        return wire.Limits(max_parameters=64 * max(1, sum(slot.numel for slot in self.bench.layout.slots)))
