"""The ServerApp: Flower's quickstart with one changed line."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from safetensors.torch import save_file

from fedbonsai.flower import Pruned
from quickstart import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and save the model."""
    config = context.run_config
    torch.manual_seed(0)
    strategy = FedAvg(fraction_evaluate=config["fraction-evaluate"])
    strategy = Pruned(strategy, density=config["density"])  # CHANGED: this line is new
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(task.Net().state_dict()),
        train_config=ConfigRecord({"lr": config["learning-rate"]}),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=evaluate,
    )
    save_file(result.arrays.to_torch_state_dict(), "final_model.safetensors")


def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate the global model on the images that no client has."""
    net = task.Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    loss, accuracy = task.test(net, task.load_test_data())
    return MetricRecord({"loss": loss, "accuracy": accuracy})
