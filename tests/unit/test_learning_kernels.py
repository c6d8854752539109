"""Kernels that train several clients at once: the same training, and the same bits in any company."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedbonsai.core.errors import ConfigError
from fedbonsai.core.support import Support
from fedbonsai.experiment.config import Experiment
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.cohort import Trained, Training, train
from fedbonsai.learning.kernels import choose_kernel
from fedbonsai.learning.learner import Fit, Learner
from fedbonsai.learning.objective import Live, Objective
from fedbonsai.learning.task import PreparedTask, Task
from fedbonsai.learning.work import Work
from fedbonsai.sparsity.channels import grids_by_width

SIZES = (23, 9, 41, 7, 30, 16)
"""Examples of the clients: ragged, with a last batch that is not full."""

WORKS = {
    "sgd": Work(batch_size=8, epochs=2, lr=0.1),
    "momentum": Work(batch_size=8, lr=0.1, momentum=0.9, weight_decay=0.01, clip=0.5),
    "adam": Work(batch_size=8, lr=0.01, optimizer="adam"),
}


def stack(*sizes: int) -> nn.Module:
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def bench_of(kernel: str, work: Work, *sizes: int, loss: str = "cross_entropy") -> Bench:
    draw = torch.Generator().manual_seed(0)
    outputs = sizes[-1]

    def data(examples: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(examples, sizes[0], generator=draw)
        own = torch.randint(0, outputs, (examples,), generator=draw)
        return inputs, own if loss == "cross_entropy" else torch.randn(examples, outputs, generator=draw)

    task = Task(lambda: stack(*sizes), loss, [data(one) for one in SIZES], data(10))
    return Bench(task.prepared(0.0, seed=0), work, 0, kernel=kernel)


def halves(bench: Bench) -> dict[str, Support]:
    draw = torch.Generator().manual_seed(1)
    slots = [slot for slot in bench.layout.parameters if len(slot.shape) > 1]
    return {slot.name: Support.masked(torch.rand(slot.shape, generator=draw) < 0.5) for slot in slots}


def fits(bench: Bench, supports: dict[str, Support] | None = None, objective: Objective | None = None) -> list[Fit]:
    return [Learner(bench, one).fit(bench.initial, supports, objective=objective) for one in range(len(SIZES))]


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("kernel", ["stack", "vmap"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_batched_kernel_trains_as_the_loop_does(name: str, kernel: str, masked: bool) -> None:
    found = []
    for one in ("loop", kernel):
        bench = bench_of(one, WORKS[name], 16, 24, 8)
        found.append(fits(bench, halves(bench) if masked else None))
    for loop, batched in zip(*found, strict=True):
        assert (loop.steps, loop.examples) == (batched.steps, batched.examples)
        assert batched.loss == pytest.approx(loop.loss, rel=1e-5)
        for key, weights in loop.weights.items():
            torch.testing.assert_close(batched.weights[key], weights, rtol=0, atol=1e-6)
            assert not masked or torch.equal(batched.weights[key] == 0, weights == 0)


def test_a_stack_trains_squared_errors_as_the_loop_does() -> None:
    loop, batched = (fits(bench_of(one, WORKS["sgd"], 5, 7, 3, loss="mse")) for one in ("loop", "stack"))
    for one, other in zip(loop, batched, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        for key, weights in one.weights.items():
            torch.testing.assert_close(other.weights[key], weights, rtol=0, atol=1e-6)


def test_objectives_of_gradients_and_steps_go_along_and_others_are_trained_one_by_one() -> None:
    def pull(live: Live) -> None:
        live.flat_gradient.add_(live.flat - live.flat_anchor, alpha=0.5)

    def shrink(live: Live) -> None:
        live.flat.mul_(0.99)

    def penalty(live: Live) -> Tensor:
        return sum(one.square().sum() for one in live.weights.values())  # type: ignore[return-value]

    for objective in (Objective(gradient=pull, after_step=shrink), Objective(penalty=penalty)):
        benches = [bench_of(one, WORKS["sgd"], 16, 24, 8) for one in ("loop", "stack")]
        loop, batched = (fits(bench, halves(bench), objective) for bench in benches)
        for one, other in zip(loop, batched, strict=True):
            for key, weights in one.weights.items():
                torch.testing.assert_close(other.weights[key], weights, rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(
    st.sampled_from([("stack", (13, 20, 3)), ("stack", (5, 1)), ("stack", (33, 17, 9)), ("vmap", (16, 24, 8))]),
    st.sampled_from(sorted(WORKS)),
    st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=len(SIZES), unique=True),
)
def test_company_changes_no_bit(kind: tuple[str, tuple[int, ...]], work: str, company: list[int]) -> None:
    kernel, sizes = kind
    loss = "mse" if sizes[-1] == 1 else "cross_entropy"
    bench = bench_of(kernel, WORKS[work], *sizes, loss=loss)
    asked: list[Training] = []

    def note(training: Training) -> Trained:
        asked.append(training)
        return train([training])[0]

    supports = halves(bench)
    for client in company:  # every other one without a mask
        Learner(bench, client, trainer=note).fit(bench.initial, supports if client % 2 else None)
    for one, beside in zip(map(train, ([one] for one in asked)), train(asked), strict=True):
        assert torch.equal(one[0].flat, beside.flat)
        assert one[0].loss == beside.loss


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(self.layer(inputs).tanh())
        return out


def frozen() -> nn.Module:
    module = stack(16, 16, 16)
    next(module.parameters()).requires_grad_(requires_grad=False)
    return module


@pytest.mark.parametrize(
    ("kernel", "model", "problem"),
    [
        ("stack", lambda: nn.Sequential(nn.Linear(16, 16), nn.Tanh()), "1: a stack is made of"),
        ("stack", _Shared, "the model: a stack is made of .* got _Shared"),
        ("vmap", lambda: nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5)), "1: Dropout"),
        ("vmap", lambda: nn.Sequential(nn.Linear(16, 15), nn.Linear(15, 5)), "1.weight: .* multiple of 16"),
        ("stack", frozen, "frozen"),
        ("vmap", lambda: nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)), "buffers"),
        ("fast", _Shared, "kernel"),
    ],
)
def test_what_a_kernel_cannot_train_is_refused(kernel: str, model: type[nn.Module], problem: str) -> None:
    data = torch.randn(4, 16), torch.randint(0, 5, (4,))
    bench = Bench(Task(model, "cross_entropy", [data], data).prepared(0.0, 0), Work(), 0, kernel=kernel)
    with pytest.raises(ConfigError, match=problem):
        _ = bench.batched


def test_the_rule_looks_at_model_batch_and_cohort() -> None:
    def task(model: Callable[[], nn.Module]) -> PreparedTask:
        data = torch.randn(4, 16), torch.randint(0, 5, (4,))
        return Task(model, "cross_entropy", [data], data).prepared(0.0, 0)

    def chosen(model: Callable[[], nn.Module], flops: int, cohort: int) -> str:
        return choose_kernel(model(), task(model), flops, cohort)[0]

    assert chosen(lambda: stack(16, 24, 8), 100_000, 10) == "stack"
    assert chosen(lambda: stack(16, 24, 8), 100_000, 2) == "loop"
    assert chosen(lambda: stack(16, 24, 8), 10_000_000, 10) == "loop"
    assert chosen(_Shared, 100_000, 20) == "vmap"
    assert chosen(_Shared, 100_000, 10) == "loop"
    for model in (frozen, _Mixing, _Random, _Doubled):
        assert chosen(model, 100_000, 20) == "loop"


class _Mixing(_Shared):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs - inputs.mean(0))


class _Random(_Shared):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(inputs, 0.5, self.training))


class _Doubled(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 16))

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach()[:, :1] * super().forward(inputs.flip(0))


class _Louder(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def hooked() -> nn.Module:
    module = stack(16, 16)
    module[1].register_forward_hook(lambda _, __, out: 2 * out)
    return module


@pytest.mark.parametrize(
    ("kernel", "model"),
    [("vmap", _Mixing), ("vmap", _Random), ("stack", lambda: nn.Sequential(_Louder(16, 16))), ("stack", hooked)],
)
def test_a_model_that_would_be_another_one_side_by_side_is_refused(kernel: str, model: Callable[[], nn.Module]) -> None:
    data = torch.randn(4, 16), torch.randint(0, 5, (4,))
    bench = Bench(Task(model, "cross_entropy", [data], data).prepared(0.0, 0), Work(), 0, kernel=kernel)
    with pytest.raises(ConfigError, match=f"kernel={kernel} cannot train this model"):
        _ = bench.batched


def test_a_layer_may_stand_in_a_stack_twice() -> None:
    rectify = nn.ReLU()
    data = torch.randn(20, 16), torch.randint(0, 5, (20,))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 9), rectify, nn.Linear(9, 9), rectify, nn.Linear(9, 5))

    task = Task(model, "cross_entropy", [data], data).prepared(0.0, 0)
    loop, batched = (Bench(task, WORKS["sgd"], 0, kernel=one) for one in ("loop", "stack"))
    for name, one in Learner(loop, 0).fit(loop.initial).weights.items():
        torch.testing.assert_close(Learner(batched, 0).fit(loop.initial).weights[name], one, rtol=0, atol=1e-6)


def test_targets_that_a_loss_leaves_out_are_left_to_the_loop() -> None:
    data = torch.randn(4, 16), torch.tensor([0, -100, 1, 2])
    task = Task(lambda: stack(16, 5), "cross_entropy", [data], data).prepared(0.0, 0)
    with pytest.raises(ConfigError, match="below 0"):
        _ = Bench(task, Work(), 0, kernel="stack").batched


def test_a_smaller_model_that_a_kernel_cannot_train_is_trained_by_the_loop() -> None:
    bench = bench_of("vmap", WORKS["sgd"], 16, 24, 8)
    small = bench.smaller(grids_by_width(bench.channels, 3 / 24))
    assert (small.kernel, small.batched) == ("loop", None)
    assert bench.smaller(grids_by_width(bench.channels, 0.5)).kernel == "vmap"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_compiled_module_trains_the_same() -> None:
    for objective in (Objective(), Objective(around=louder)):
        found = []
        for kernel in ("loop", "compiled"):
            bench = bench_of(kernel, Work(batch_size=8, lr=0.3), 16, 24, 8)  # 9 and 41 examples leave a batch of one
            assert bench.batched is None
            assert (bench.forward is bench.module) == (kernel == "loop")
            found.append(
                [Learner(bench, client).fit(bench.initial, objective=objective) for client in range(len(SIZES))]
            )
        for ours, theirs in zip(*found, strict=True):
            for name, one in ours.weights.items():
                torch.testing.assert_close(theirs.weights[name], one, rtol=0, atol=1e-6)
            assert theirs.loss == pytest.approx(ours.loss, abs=1e-6)
    small = bench.smaller(grids_by_width(bench.channels, 0.5))
    assert (small.kernel, small.forward) == ("loop", small.module)


@contextmanager
def louder(module: nn.Module) -> Iterator[None]:
    """What the compiler has not seen."""
    handle = module.register_forward_hook(lambda _, __, out: 2 * out)
    yield
    handle.remove()


class _Branching(_Shared):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs if float(inputs.sum()) > 0 else -inputs)


def test_a_module_that_cannot_be_compiled_as_a_whole_is_refused() -> None:
    data = torch.randn(4, 16), torch.randint(0, 5, (4,))
    bench = Bench(Task(_Branching, "cross_entropy", [data], data).prepared(0.0, 0), Work(), 0, kernel="compiled")
    with pytest.raises(ConfigError, match=r"kernel=compiled cannot train this model: (?s:.*); use kernel=loop"):
        _ = bench.forward


def test_one_process_compiles() -> None:
    with pytest.raises(ConfigError, match="kernel=compiled needs engine=local"):
        Experiment(kernel="compiled", engine="processes")
