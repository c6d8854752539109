"""FedLab's standalone simulation: one process, the clients one after the other."""

import sys
from types import ModuleType

import torch

# FedLab imports torchvision for data sets that are not used here.
for name in ("torchvision", "torchvision.transforms"):
    sys.modules[name] = ModuleType(name)
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]

from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.core.standalone import StandalonePipeline
from job import asked, read_job, said
from networks import cross_entropy, network
from torch.utils.data import DataLoader, TensorDataset


class Clients:
    """The data of the clients, as FedLab asks for it."""

    def __init__(self, clients):
        self.sets = [TensorDataset(*map(torch.from_numpy, client)) for client in clients]

    def get_dataloader(self, client, batch_size):
        """Batches of one client's examples, in a new order."""
        return DataLoader(self.sets[client], batch_size, shuffle=True)


class Server(SyncServerHandler):
    """The server with the job's draw of clients."""

    def sample_clients(self):
        """The clients of this round."""
        return job.cohorts[self.round]


class Pipeline(StandalonePipeline):
    """The pipeline, which waits after each round until the next is asked for."""

    def evaluate(self):
        """Say that a round is done."""
        said("done")
        wait()


def wait():
    """Wait until a round is asked for."""
    if not asked(lambda: [one.detach() for one in handler.model.parameters()]):
        sys.exit()


torch.set_num_threads(1)
job = read_job(sys.argv[1])
model = network(job.network, job.weights, job.dropout)
handler = Server(model, len(job.cohorts), len(job.cohorts[0]) / len(job.clients))
trainer = SGDSerialClientTrainer(model, len(job.clients))
trainer.setup_dataset(Clients(job.clients))
trainer.setup_optim(job.epochs, job.batch, job.lr)
trainer.criterion = cross_entropy
pipeline = Pipeline(handler, trainer)
said("ready")
wait()
pipeline.main()
