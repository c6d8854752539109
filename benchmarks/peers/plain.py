"""A plain PyTorch loop: one module, reset in place for each client; the mean of what comes out is a running sum."""

import sys

import torch
from job import asked, read_job, said
from networks import loss_of, network

torch.set_num_threads(1)
job = read_job(sys.argv[1])
clients = [(torch.from_numpy(inputs), torch.from_numpy(targets)) for inputs, targets in job.clients]
model = network(job.network, job.weights, job.dropout)
parameters = list(model.parameters())
optimizer = torch.optim.SGD(parameters, job.lr)
weights = [one.detach().clone() for one in parameters]


def one_round(cohort):
    """Train each client of a cohort in turn."""
    sums, examples = [torch.zeros_like(one) for one in weights], 0
    for client in cohort:
        inputs, targets = clients[client]
        with torch.no_grad():
            torch._foreach_copy_(parameters, weights)
        for _ in range(job.epochs):
            for batch in torch.randperm(len(targets)).split(job.batch):
                optimizer.zero_grad()
                loss_of(model, inputs[batch], targets[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            torch._foreach_add_(sums, parameters, alpha=len(targets))
        examples += len(targets)
    torch._foreach_copy_(weights, torch._foreach_div(sums, examples))


said("ready")
for cohort in job.cohorts:
    if not asked(lambda: weights):
        break
    one_round(cohort)
    said("done")
else:
    asked(lambda: weights)
