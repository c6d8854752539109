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


def conv(state, weights, inputs, outputs, kernel, padding):
    """A convolution of stride 1."""
    del inputs, outputs, kernel
    sides = [(padding, padding)] * 2
    found = jax.lax.conv_general_dilated(
        state, next(weights), (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return found + next(weights)


def pool(state, weights):
    """Max-pooling of 2x2."""
    del weights
    return jax.lax.reduce_window(state, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def linear(state, weights, inputs, outputs):
    """A dense layer."""
    del inputs, outputs
    return state @ next(weights) + next(weights)


LAYERS = {
    "conv": conv,
    "pool": pool,
    "linear": linear,
    "relu": lambda state, weights: jax.nn.relu(state),
    "flatten": lambda state, weights: state.reshape(len(state), -1),
}


def grad_of(layers):
    """The gradient of the mean cross-entropy of a batch."""

    def loss(params, batch, rng):
        state, weights = batch["x"], iter(params)
        for kind, *sizes in layers:
            if kind == "dropout":
                rng, use = jax.random.split(rng)
                state *= jax.random.bernoulli(use, 1 - sizes[0], state.shape) / (1 - sizes[0])
            else:
                state = LAYERS[kind](state, weights, *sizes)
        return -jnp.take_along_axis(jax.nn.log_softmax(state), batch["y"][:, None], 1).mean()

    return jax.grad(loss)


def turned(weights, layers, back=False):
    """Weights from PyTorch's order of dimensions to JAX's, or back."""
    found, rest, channels, flat = [], iter(weights), 0, False
    for kind, *sizes in layers:
        if kind == "conv":
            found += [np.transpose(next(rest), (3, 2, 0, 1) if back else (2, 3, 1, 0)), next(rest)]
            channels = sizes[1]
        elif kind == "linear":
            weight = np.asarray(next(rest))
            if flat:  # the first after the images: PyTorch flattens channels first
                side = int((sizes[0] / channels) ** 0.5)
                if back:
                    weight = weight.reshape(side, side, channels, -1).transpose(3, 2, 0, 1).reshape(sizes[1], -1)
                else:
                    weight = weight.reshape(-1, channels, side, side).transpose(2, 3, 1, 0).reshape(sizes[0], -1)
            else:
                weight = weight.T
            found += [weight, next(rest)]
            flat = False
        elif kind == "flatten":
            flat = True
    return found


job = read_job(sys.argv[1])
if job.network not in CHAINS:
    sys.exit("only chains of layers are written for JAX here")
layers = chain(job.network, job.dropout)
images = job.clients[0][0].ndim == 4
users = {
    client: {"x": np.ascontiguousarray(np.moveaxis(inputs, 1, -1)) if images else inputs, "y": targets}
    for client, (inputs, targets) in enumerate(job.clients)
}
data = fedjax.InMemoryFederatedData(users)
algorithm = fed_avg.federated_averaging(
    grad_of(layers),
    fedjax.optimizers.sgd(job.lr),
    fedjax.optimizers.sgd(1.0),
    fedjax.ShuffleRepeatBatchHParams(batch_size=job.batch, num_epochs=job.epochs),
)
state = algorithm.init([jnp.asarray(one) for one in turned(job.weights, layers)])


def now():
    """The weights, as PyTorch has them."""
    return turned(state.params, layers, back=True)


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
