"""The ClientApp: Flower's quickstart with one changed line, and one more that is worth having."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedbonsai.flower import hold, pruning_mod
from quickstart import task

app = ClientApp(mods=[pruning_mod])  # CHANGED: was ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that came on this client's data."""
    torch.manual_seed(context.node_config["partition-id"])
    net = task.Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    hold(net)  # OPTIONAL: pruned weights stay zero while training; without it they are cut off afterwards
    loader, _ = _load(context)
    loss = task.train(net, loader, context.run_config["local-epochs"], message.content["config"]["lr"])
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model that came on this client's data."""
    net = task.Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    _, loader = _load(context)
    loss, accuracy = task.test(net, loader)
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _load(context: Context) -> tuple[task.DataLoader, task.DataLoader]:
    node = context.node_config
    return task.load_data(node["partition-id"], node["num-partitions"], context.run_config["batch-size"])
