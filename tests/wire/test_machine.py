"""A server and a client that exchange messages, prune, forget and lose bytes, in any order."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from fedbonsai.core.errors import UnknownSupport, WireError
from fedbonsai.core.message import Message, group
from fedbonsai.core.support import Support
from fedbonsai.wire import decode, encode, seeded_support

SHAPES = {"a": (12, 30), "b": (12, 30), "c": (40,)}
seeds = st.integers(0, 2**32)


class Exchange(RuleBasedStateMachine):
    """What the server believes of the client may be wrong; what the client reads never is."""

    def __init__(self) -> None:
        super().__init__()
        self.supports: dict[str, Support] = {}
        self.believed: dict[bytes, Support] = {}
        self.held: dict[bytes, Support] = {}
        self.weights: dict[str, Tensor] = {}
        self.base: dict[str, dict[str, object]] = {}
        self.round = 0

    @initialize(seed=seeds)
    def start(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.weights = {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}

    @rule(name=st.sampled_from(list(SHAPES)), density=st.floats(0, 1), seed=seeds)
    def prune_at_random(self, name: str, density: float, seed: int) -> None:
        random = torch.rand(SHAPES[name], generator=torch.Generator().manual_seed(seed))
        self.supports[name] = Support.masked(random < density)

    @rule(name=st.sampled_from(["a", "b"]), kept=st.sets(st.integers(0, 11)))
    def keep_rows(self, name: str, kept: set[int]) -> None:
        rows = torch.tensor(sorted(kept), dtype=torch.int64)
        self.supports[name] = Support.grid(SHAPES[name], [rows, torch.arange(30)])

    @rule(name=st.sampled_from(list(SHAPES)), at=st.sets(st.integers(0, 39), min_size=1))
    def move_some(self, name: str, at: set[int]) -> None:
        mask = self.supports.get(name, Support.dense(SHAPES[name])).indicator().clone()
        mask.reshape(-1)[sorted(at)] ^= True
        self.supports[name] = Support.masked(mask)

    @rule(name=st.sampled_from(list(SHAPES)), count=st.integers(0, 40), seed=seeds)
    def take_a_seeded_one(self, name: str, count: int, seed: int) -> None:
        self.supports[name] = seeded_support(SHAPES[name], count, seed)

    @rule(values=st.sampled_from(["fp32", "raw", "delta"]))
    def send(self, values: str) -> None:
        self.round += 1
        message = Message({"weights": group(self.weights, self.supports)}, round=self.round)
        base = self.base if values == "delta" else None
        data = encode(message, values=values, held=self.believed, base=base)
        try:
            back = decode(data, held=self.held, base=self.base)
        except UnknownSupport:
            assert any(key not in self.held for key in self.believed)
            back = decode(encode(message, values=values, base=base), base=self.base)
        for name, part in message.groups["weights"].items():
            other = back.groups["weights"][name]
            assert other.support == part.support
            assert torch.equal(other.values, part.values)
        self.base = {"weights": dict(back.groups["weights"])}
        known = {one.digest: one for one in back.supports().values()}
        self.believed |= known
        self.held |= known

    @rule(round_=st.integers(0, 10**6), values=st.sampled_from(["int8", "uniform", "bits", "sign"]))
    def send_roughly(self, round_: int, values: str) -> None:
        message = Message({"weights": group(self.weights, self.supports)}, round=round_)
        back = decode(encode(message, values=values)).groups["weights"]
        for name, part in message.groups["weights"].items():
            assert back[name].support == part.support
            assert (back[name].values - part.values).abs().max() < 9 if part.support.count else True

    @rule()
    def client_loses_its_memory(self) -> None:
        self.held = {}

    @rule()
    def client_holds_more_than_the_server_knows(self) -> None:
        self.held |= {one.digest: one for one in self.supports.values() if one.kind != "dense"}

    @rule(at=st.floats(0, 1), bit=st.integers(0, 7))
    def a_bit_is_lost(self, at: float, bit: int) -> None:
        data = bytearray(encode(Message({"weights": group(self.weights, self.supports)})))
        data[int(at * (len(data) - 1))] ^= 1 << bit
        try:
            decode(bytes(data))
        except WireError:
            return
        raise AssertionError("a damaged message was read")

    @invariant()
    def digests_name_their_supports(self) -> None:
        assert all(key == one.digest for key, one in self.held.items())


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
