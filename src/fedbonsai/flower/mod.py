"""The client's half of the drop-in: a mod that unpacks what came, and packs what is sent back."""

from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedbonsai.core.errors import ClientError
from fedbonsai.core.message import Message as Task
from fedbonsai.flower.arrays import Model, blob_of, packed, read_task, record_of
from fedbonsai.flower.holding import Received, working_on

Records = dict[str, ArrayRecord | MetricRecord | ConfigRecord]


def pruning_mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Let an unchanged ClientApp work for a server whose strategy is `Pruned`.

    Where a packed model came, the app finds the ordinary ArrayRecord instead, under the same key, with exact zeros
    where the model is pruned. Of what its train function sends back, the ArrayRecord with the model's tensors is
    packed: pruned weights that the training has revived are cut off (see `hold`), tensors are brought to the model's
    order, and everything else travels as it is. A message without a packed model passes as it is, so the app works for
    other strategies too.

    It must be the first of the mods that look into arrays: ``ClientApp(mods=[pruning_mod, fixedclipping_mod])``.

    Raises:
        WireError: What came is damaged, or has more than 2^28 values.
        ClientError: The app's answer has no ArrayRecord with the tensors that came.
    """
    found = {name: blob_of(record) for name, record in message.content.array_records.items()}
    tasks = {name: read_task(data) for name, data in found.items() if data is not None}
    if not tasks:
        return call_next(message, context)
    plain = {name: record_of(task.dense()) for name, task in tasks.items()}
    message.content = RecordDict({**message.content, **plain})
    first = next(iter(tasks))
    model, task = Model.of(plain[first]), tasks[first]
    with working_on(Received(tuple(model.shapes), task.supports())):
        reply = call_next(message, context)
    if message.metadata.message_type.partition(".")[0] == "train" and reply.has_content():
        reply.content = RecordDict(_packed(reply.content, model, task))
    return reply


def _packed(content: RecordDict, model: Model, task: Task) -> Records:
    """The records of an answer, the model among them packed; the note of a task says how."""
    fitting = {name: one for name, one in content.array_records.items() if model.fits(one)}
    if not fitting:
        got = {name: dict(Model.of(one).shapes) for name, one in content.array_records.items()}
        raise ClientError(
            "the reply to a train message must have an ArrayRecord with the tensors that came, such as "
            f"ArrayRecord(model.state_dict()): {_few(dict(model.shapes))}; got {_few(got)}"
        )
    supports = task.supports()
    blobs = {name: packed(model.tensors(one), supports, task.note, known=True) for name, one in fitting.items()}
    return {**content, **blobs}


def _few(shapes: object) -> str:
    text = str(shapes)
    return text if len(text) <= 300 else f"{text[:300]} ..."
