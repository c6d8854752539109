"""What a run keeps and writes stays small however many clients there are."""

from dataclasses import replace

import pytest
import torch
from contract.federation import CLIENTS, finished, make_run
from contract.seams import OwnBias, PerClientMask

from fedbonsai.core.held import Held
from fedbonsai.core.state import Memory
from fedbonsai.federated.exchange import Exchange
from fedbonsai.federated.ledger import NAMED
from fedbonsai.federated.run import Schedule
from fedbonsai.methods.fedavg import FedAvg
from fedbonsai.methods.lotteryfl import LotteryFL

BY_CLIENT = ("bytes_by_client", "work_by_client", "seconds_by_client")


def test_a_row_counts_all_clients_and_names_a_part_of_a_large_cohort(monkeypatch):
    whole = finished(FedAvg(), rounds=1, cohort=CLIENTS).rows[0]
    assert all(list(whole[name]) == list("01234") for name in BY_CLIENT)
    monkeypatch.setattr("fedbonsai.federated.ledger.NAMED", 2)
    row = finished(FedAvg(), rounds=1, cohort=CLIENTS).rows[0]
    assert all(list(row[name]) == ["0", "3"] for name in BY_CLIENT)
    assert all(row[name] == whole[name] for name in ("bytes_down", "bytes_up", "flops", "clients", "traffic"))
    assert row["work_by_client"]["3"] == whole["work_by_client"]["3"]
    # Engines begin clients in orders of their own; the row names the same ones.
    monkeypatch.setattr("fedbonsai.federated.exchange.spread", lambda cohort, sizes, workers: cohort[::-1])
    turned = finished(FedAvg(), rounds=1, cohort=CLIENTS).rows[0]
    assert all(list(turned[name]) == ["0", "3"] for name in BY_CLIENT)
    assert NAMED == 1000


@pytest.mark.parametrize("method", [OwnBias(), FedAvg()], ids=lambda one: one.name)
def test_a_sample_of_clients_judges_a_large_population_and_is_the_same_throughout(method):
    whole, run = make_run(method), make_run(method)
    run.schedule = replace(run.schedule, judges=3)
    assert whole.judges() == tuple(range(CLIENTS))
    assert Schedule().judges == 10_000
    state, judges, splits = run.start().state, run.judges(), run.bench.task.splits
    assert len(set(judges)) == 3
    assert list(judges) == sorted(judges)
    assert judges == replace(run, rules=run.rules).judges()
    assert run.train_metric(state).examples == sum(len(splits[one].train) for one in judges)
    if run.personal:
        assert run.evaluate(state).examples == sum(len(splits[one].holdout) for one in judges)
        assert run.evaluate(state) == run.evaluate(replace(state, turn=7))
    seeds = [replace(run, setting=replace(run.setting, seed=seed)).judges() for seed in range(4)]
    assert len(set(seeds)) > 1


def test_masks_of_all_members_are_kept_for_those_who_ask_for_more_than_sums(monkeypatch):
    seen = []
    for method in (PerClientMask(), LotteryFL()):
        finalize = type(method).finalize

        def spy(self, state, total, finalize=finalize):
            seen.append((self.traits.sums_only, total.clients, len(total.supports)))
            return finalize(self, state, total)

        monkeypatch.setattr(type(method), "finalize", spy)
        finished(method, rounds=1)
    assert seen == [(True, 3, 0), (False, 3, 3)]


def test_of_clients_that_have_answered_a_round_keeps_what_they_hold_packed_and_no_more(monkeypatch):
    seen, held = [], Exchange.held

    def spy(self):
        seen.append((dict(self.sent), len(self.holds)))
        return held(self)

    monkeypatch.setattr(Exchange, "held", spy)
    state = finished(PerClientMask(), rounds=2, cohort=CLIENTS).state
    assert seen == [({}, CLIENTS)] * 2
    assert isinstance(state.held, Held)
    assert len(state.held) == CLIENTS
    assert len({holding.masks[-1].digest for holding in state.held.clients.values()}) > 1


def test_a_checkpoint_writes_what_clients_keep_behind_what_they_kept_before(tmp_path):
    run = make_run(OwnBias(), rounds=4, directory=tmp_path)
    sizes, files = [], set[str]()

    def look(_):
        (file,) = tmp_path.glob("clients-*.bin")
        sizes.append(file.stat().st_size)
        files.add(file.name)

    checkpoint = run.run(look)
    assert files == {"clients-1.bin"}
    assert sizes == sorted(set(sizes))
    again = make_run(OwnBias(), rounds=4, directory=tmp_path)
    found = again.start().memories
    assert dict.keys({**found}) == dict.keys({**checkpoint.memories})
    for client, memory in checkpoint.memories.items():
        assert isinstance(memory, Memory)
        assert memory.numbers == found[client].numbers
        assert all(torch.equal(one, found[client].tensors[name]) for name, one in memory.tensors.items())


def test_a_run_whose_clients_keep_nothing_writes_no_file_for_them(tmp_path):
    finished(FedAvg(), rounds=1, directory=tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["state.safetensors"]
