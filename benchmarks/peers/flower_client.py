"""What runs in the actors of Flower's simulation."""

from functools import cache

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from job import read_job
from networks import loss_of, network, set_weights

client_app = ClientApp()


@cache
def prepared(folder):
    """The data and the model of an actor, which it keeps."""
    torch.set_num_threads(1)
    job = read_job(folder)
    clients = [tuple(torch.from_numpy(one) for one in client) for client in job.clients]
    return job, clients, network(job.network, job.weights, job.dropout)


@client_app.train()
def train(message, context):
    """Train one client."""
    del context
    config = message.content["config"]
    job, clients, model = prepared(config["folder"])
    inputs, targets = clients[config["client"]]
    set_weights(model, message.content["arrays"].to_numpy_ndarrays())
    optimizer = torch.optim.SGD(model.parameters(), job.lr)
    for _ in range(job.epochs):
        for batch in torch.randperm(len(targets)).split(job.batch):
            optimizer.zero_grad()
            loss_of(model, inputs[batch], targets[batch]).backward()
            optimizer.step()
    arrays = ArrayRecord([one.detach().numpy() for one in model.parameters()])
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": len(targets)})})
    return Message(content=content, reply_to=message)
