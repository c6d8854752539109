"""FedJAX's federated averaging, each client's step compiled; images have their channels last, as suits XLA on CPUs."""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import jax
import jax.numpy as jnp
import numpy as np
from job import asked, read_job, said
from layers import CHAINS, chain

jax.tree_map = jax.tree_util.tree_map  # FedJAX 0.0.17 wants the name that newer versions of JAX have dropped

import fedjax
from fedjax.algorithms import fed_avg

LAST = ("NHWC", "HWIO", "NHWC")


def convolved(state, weight, stride, padding):
    """A convolution without bias."""
    sides = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(state, weight, (stride, stride), sides, dimension_numbers=LAST)


def linear(state, weights, *_):
    """A dense layer; its weight is PyTorch's."""
    return state @ next(weights).T + next(weights)


LAYERS = {
    "conv": lambda state, weights, *sizes: convolved(state, next(weights), 1, sizes[-1]) + next(weights),
    "pool": lambda state, _: jax.lax.reduce_window(state, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "linear": linear,
    "relu": lambda state, _: jax.nn.relu(state),
    "flatten": lambda state, _: state.transpose(0, 3, 1, 2).reshape(len(state), -1),  # PyTorch's order
}


def chained(state, weights, rng):
    """A network that is a chain of layers."""
    for kind, *sizes in chain(job.network, job.dropout):
        if kind == "dropout":
            rng, use = jax.random.split(rng)
            state *= jax.random.bernoulli(use, 1 - sizes[0], state.shape) / (1 - sizes[0])
        else:
            state = LAYERS[kind](state, weights, *sizes)
    return state


def lstm(tokens, weights, _):
    """An embedding, an LSTM with PyTorch's gates, and scores."""
    state = next(weights)[tokens]
    inward, around, *biases = (next(weights) for _ in range(4))

    def step(carried, given):
        hidden, cell = carried
        entry, forget, new, exit_ = jnp.split(given + hidden @ around.T, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(entry) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(exit_) * jnp.tanh(cell)
        return (hidden, cell), hidden

    given = (state @ inward.T + sum(biases)).swapaxes(0, 1)
    begun = jnp.zeros((len(tokens), around.shape[1]))
    return linear(jax.lax.scan(step, (begun, begun), given)[1].swapaxes(0, 1), weights)


def normed(state, weights):
    """Group norm of two groups."""
    groups = state.reshape(*state.shape[:3], 2, -1)
    mean, variance = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
    return ((groups - mean) / jnp.sqrt(variance + 1e-5)).reshape(state.shape) * next(weights) + next(weights)


def resnet(state, weights, _):
    """ResNet-18 with group norm."""
    state = jax.nn.relu(normed(convolved(state, next(weights), 1, 1), weights))
    for block in range(8):
        stride = 2 if block in (2, 4, 6) else 1
        body = jax.nn.relu(normed(convolved(state, next(weights), stride, 1), weights))
        body = normed(convolved(body, next(weights), 1, 1), weights)
        if stride == 2:
            state = normed(convolved(state, next(weights), 2, 0), weights)
        state = jax.nn.relu(body + state)
    return linear(state.mean((1, 2)), weights)


def loss(params, batch, rng):
    """Mean cross-entropy of a batch."""
    scores = jax.nn.log_softmax(network(batch["x"], iter(params), rng))
    return -jnp.take_along_axis(scores, batch["y"][..., None], -1).mean()


def now():
    """The weights, as PyTorch has them."""
    return [np.transpose(one, (3, 2, 0, 1)) if one.ndim == 4 else one for one in state.params]


job = read_job(sys.argv[1])
network = chained if job.network in CHAINS else {"lstm": lstm, "resnet": resnet}[job.network]
images = job.clients[0][0].ndim == 4
users = {
    client: {"x": np.ascontiguousarray(np.moveaxis(inputs, 1, -1)) if images else inputs, "y": targets}
    for client, (inputs, targets) in enumerate(job.clients)
}
data = fedjax.InMemoryFederatedData(users)
algorithm = fed_avg.federated_averaging(
    jax.grad(loss),
    fedjax.optimizers.sgd(job.lr),
    fedjax.optimizers.sgd(1.0),
    fedjax.ShuffleRepeatBatchHParams(batch_size=job.batch, num_epochs=job.epochs),
)
state = algorithm.init([jnp.asarray(np.transpose(one, (2, 3, 1, 0)) if one.ndim == 4 else one) for one in job.weights])
said("ready")
for number, cohort in enumerate(job.cohorts):
    if not asked(now):
        break
    keys = jax.random.split(jax.random.PRNGKey(number), len(cohort))
    clients = [(client, own, key) for (client, own), key in zip(data.get_clients(cohort), keys, strict=True)]
    state, _ = algorithm.apply(state, clients)
    jax.block_until_ready(state.params)
    said("done")
else:
    asked(now)
