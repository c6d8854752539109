"""A client as the network sees it: bytes in, bytes out. It never raises; what goes wrong is its answer."""

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace

from fedbonsai import wire
from fedbonsai.core.errors import ConfigError, UnknownSupport
from fedbonsai.core.message import Message
from fedbonsai.core.state import Memory, Tensors
from fedbonsai.core.support import Support
from fedbonsai.core.timing import span
from fedbonsai.federated.aggregate import contribution
from fedbonsai.federated.method import Method, PersonalMethod, SmallerPersonalMethod
from fedbonsai.federated.submodels import judged, only_grids
from fedbonsai.federated.traffic import by_digest, masks, message_limits
from fedbonsai.learning.bench import Bench, Evaluation
from fedbonsai.learning.cohort import Trainer, alone
from fedbonsai.learning.learner import Learner
from fedbonsai.learning.work import NormPolicy

logger = logging.getLogger(__name__)

EVALUATE, JUDGE, STATISTICS = "evaluate", "judge", "statistics"
"""Stages that every client answers, whatever the method."""

FAILED, RESEND, LOST = "failed", "resend", "lost"
"""Stages of an answer that is none: what went wrong, that the task referred to masks that this client does not hold, or
that all is lost that the client kept and its method goes on from."""


AFTER = "after"
"""Number of a task: 1 + the turn of the client's last answer that counted, whose memory it goes on from."""


@dataclass(frozen=True)
class Coding:
    """How a client codes what it sends.

    Attributes:
        values: A coding of `wire.SETTINGS`.
        feedback: Whether what a lossy coding drops is kept and added to the next update.
    """

    values: str = "fp32"
    feedback: bool = False


class _MemoryLost(Exception):  # noqa: N818 - named for what it says to the server
    """What a stateful client kept of its last answer is not there."""


@dataclass
class Client:
    """Serves tasks. One object serves any number of simulated clients in turn, or the one of a real device.

    A client's memory has sections: ``method``; ``buffers``, batch-norm statistics that stay here; ``held``, the masks
    of the last exchange, which later messages may refer to; ``residual``, what lossy coding has dropped so far.

    Attributes:
        method: The method, the same as the server's.
        bench: Model and data.
        norm_policy: What happens to batch-norm statistics: ``average`` shares them, ``local`` keeps them here,
            ``static`` does neither (the server asks for them in a stage of its own).
        coding: How updates are coded.
        memories: What each client keeps between rounds.
        trainer: Does trainings that a batched kernel can do for several clients at once.
        reader: Reads the tasks.
    """

    method: Method
    bench: Bench
    norm_policy: NormPolicy = "average"
    coding: Coding = Coding()
    memories: MutableMapping[int, Memory] = field(default_factory=dict)
    trainer: Trainer = alone
    reader: wire.Reader = field(default_factory=wire.Reader)

    def serve(self, data: bytes) -> bytes:
        """Do what a task asks for and return the encoded answer."""
        task, held = Message(), dict[bytes, Support]()
        self._spent()  # what a server has computed on the same bench is not this client's work
        try:
            frame = self.reader.frame(data, self._limits)
            task = wire.header(frame)
            known = bool(task.numbers.get(AFTER))
            memory = self.memories.get(task.client, Memory()) if known else Memory()
            if known and self.method.traits.stateful and not memory:
                raise _MemoryLost(f"client {task.client} has lost what it kept of its last answer")
            held = by_digest(Support.masked(mask) for mask in memory.section("held").tensors.values())
            with span("decode", task.client):
                task = self.reader.read(frame, held)
            answer = self._work(task, memory)
            held |= by_digest(masks(task))
        except _MemoryLost as error:
            answer = Message(stage=LOST, note=str(error)[:500])
        except UnknownSupport as error:
            answer = Message(stage=RESEND, note=str(error)[:500])
        except Exception as error:  # whatever one client raises must not end the round of the others
            logger.debug("client %d failed", task.client, exc_info=True)
            answer = Message(stage=FAILED, note=f"{type(error).__name__}: {error}"[:500])
        answer = replace(answer, round=task.round, client=task.client).with_numbers(flops=self._spent())
        with span("encode", task.client):
            return wire.encode(answer, values=self.coding.values, held=held)

    def _work(self, task: Message, memory: Memory) -> Message:
        """Do the work of one stage; of every stage but an evaluation the client keeps something."""
        learner = Learner(
            self.bench,
            task.client,
            task.round,
            task.numbers.get("progress", 0.0),
            buffers=dict(memory.section("buffers").tensors),
            keep_buffers=self.norm_policy == "local",
            trainer=self.trainer,
        )
        if task.stage in (EVALUATE, JUDGE):
            with span("evaluate", task.client):
                return self._evaluate(task, memory.section("method"), learner)
        with span("train", task.client):
            update, kept = self._update(task, memory.section("method"), learner)
        with span("encode", task.client):
            update, residual = self._compensated(update, task, memory)
        held = {
            str(place): one.indicator() for place, one in enumerate(by_digest(masks(task) + masks(update)).values())
        }
        self.memories[task.client] = kept.under("method").merge(
            Memory(learner.buffers).under("buffers"), Memory(held).under("held"), residual.under("residual")
        )
        return replace(update, stage=task.stage)

    def _update(self, task: Message, memory: Memory, learner: Learner) -> tuple[Message, Memory]:
        """What the method makes of a task, or the statistics that are asked for whatever the method."""
        if task.stage == STATISTICS:
            statistics = learner.statistics(self._model(task, memory, learner))
            return contribution(statistics, None, learner.num_examples), memory
        return self.method.work(task, memory, learner)

    def _compensated(self, update: Message, task: Message, memory: Memory) -> tuple[Message, Memory]:
        """Add to an update what the coding of earlier ones has dropped."""
        residual = memory.section("residual")
        if not self.coding.feedback or task.stage == STATISTICS or "weights" not in update.groups:
            return update, residual
        origin = wire.feedback.Origin(task.round, task.client)
        weights = update.groups["weights"]
        sent, left = wire.feedback.compensate(weights, residual.tensors, self.coding.values, origin)
        return replace(update, groups={**update.groups, "weights": sent}), Memory(left)

    def _evaluate(self, task: Message, memory: Memory, learner: Learner) -> Message:
        """Judge the client's own model on data that nothing else has seen, or what was sent on what it trains on.

        A physically smaller model is judged as it is.
        """
        if task.stage == JUDGE:
            shared = replace(learner, buffers={})  # what is judged is what all share
            return _judgement(judged(shared, task.dense(), only_grids(task.supports()), "train"), JUDGE)
        if not (isinstance(self.method, PersonalMethod) or self.norm_policy == "local"):
            raise ConfigError(f"{self.method.name} has no personal models to evaluate")
        model, places = self._model(task, memory, learner), only_grids(task.supports())
        if isinstance(self.method, SmallerPersonalMethod):
            places = only_grids(self.method.personal_places(task, memory, learner))
        return _judgement(judged(learner, model, places, "holdout"), EVALUATE)

    def _model(self, task: Message, memory: Memory, learner: Learner) -> Tensors:
        """The model that the client would use now: what was sent, unless the method says what to make of it."""
        if isinstance(self.method, PersonalMethod):
            return self.method.personal_model(task, memory, learner)
        return task.dense()

    def _spent(self) -> float:
        spent, self.bench.meter.flops = self.bench.meter.flops, 0
        return float(spent)

    @property
    def _limits(self) -> wire.Limits:
        return message_limits(sum(slot.numel for slot in self.bench.layout.slots))


def _judgement(found: Evaluation, stage: str) -> Message:
    """An evaluation as sums, which add up over clients."""
    sums = {"loss": found.loss * found.examples, "metric": found.metric * found.examples}
    return Message({}, sums, weight=float(found.examples), stage=stage)
