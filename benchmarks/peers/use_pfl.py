"""pfl-research as its own CIFAR-10 benchmark uses it. Two processes: ``torchrun --standalone --nproc-per-node 2``."""

import os
import sys

import torch
from job import asked, read_job, said
from networks import loss_of, network
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Network(torch.nn.Module):
    """The network with what pfl asks of one: its loss and its metrics."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        """Call the network."""
        return self.inner(inputs)

    def loss(self, inputs, targets):
        """Mean loss of a batch."""
        return loss_of(self, inputs, targets)

    @torch.no_grad()
    def metrics(self, inputs, targets):
        """The loss, weighted by the examples."""
        return {"loss": Weighted(self.loss(inputs, targets).item() * len(targets), len(targets))}


class Steps(TrainingProcessCallback):
    """Holds a round when it is asked for; only the first process talks, the others wait for what it says."""

    def __init__(self, talks):
        self.talks = talks

    def _asked(self, model):
        go = torch.zeros(1)
        if self.talks:
            go += asked(lambda: [one.detach() for one in model.pytorch_model.parameters()])
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(go, 0)
        return bool(go)

    def on_train_begin(self, *, model):
        """Wait for the first round."""
        if self.talks:
            said("ready")
        self._asked(model)
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Say that a round is done, and wait for the next."""
        if self.talks:
            said("done")
        return not self._asked(model), Metrics()


torch.set_num_threads(1)
job = read_job(sys.argv[1])
network = Network(network(job.network, job.weights, job.dropout))
model = PyTorchModel(
    model=network,
    local_optimizer_create=torch.optim.SGD,
    central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
)
draw = iter([client for cohort in job.cohorts for client in cohort])
users = [tuple(torch.from_numpy(one) for one in client) for client in job.clients]
backend = SimulatedBackend(
    training_data=FederatedDataset.from_slices(users, draw.__next__),
    val_data=None,
    postprocessors=[WeightByDatapoints()],
)
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(
        central_num_iterations=len(job.cohorts),
        evaluation_frequency=10**6,
        train_cohort_size=len(job.cohorts[0]),
        val_cohort_size=0,
    ),
    backend=backend,
    model=model,
    model_train_params=NNTrainHyperParams(
        local_learning_rate=job.lr, local_num_epochs=job.epochs, local_batch_size=job.batch
    ),
    callbacks=[Steps(talks=os.environ.get("RANK", "0") == "0")],
    send_metrics_to_platform=False,
)
