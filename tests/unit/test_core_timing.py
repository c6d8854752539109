"""Spans: nested, bounded, from several processes, and nothing at all while nobody records."""

import json
import os
import time

import pytest

from fedbonsai.core.timing import (
    FIRST_WORKER,
    SERVER,
    Recording,
    Span,
    forked,
    merged,
    noted,
    on_track,
    recording,
    span,
    suspended,
    taken,
)


def kinds(found: Recording) -> list[tuple[int, str, int]]:
    return [(one.track, one.kind, one.number) for one in found.spans]


def test_while_nobody_records_every_span_is_the_same_object_and_nothing_is_kept():
    assert span("train", 1) is span("encode") is on_track(FIRST_WORKER)
    with recording() as found:
        assert span("train", 1) is not span("train", 1)
    with span("train", 1), on_track(FIRST_WORKER), span("encode", 1):
        pass
    forked(1)
    assert found.spans == []
    assert taken() == b""
    merged(b"not looked at")
    noted(FIRST_WORKER, "lost", 0.0, 1)


def test_a_span_lies_within_the_one_around_it_whose_own_time_is_the_rest():
    with recording() as found, span("round", 4):
        time.sleep(0.01)
        with span("train", 7):
            time.sleep(0.02)
        with span("train", 8), span("encode", 8):
            time.sleep(0.01)
    assert kinds(found) == [(0, "train", 7), (0, "encode", 8), (0, "train", 8), (0, "round", 4)]
    *inner, outer = found.spans
    assert all(found.began <= outer.began <= one.began <= one.ended <= outer.ended <= found.ended for one in inner)
    own = found.own[SERVER]
    assert own.total() == outer.ended - outer.began
    assert own["train"] >= 20e6
    assert own["encode"] >= 10e6
    assert own["round"] >= 10e6
    assert own["round"] == outer.ended - outer.began - sum(one.ended - one.began for one in (inner[0], inner[2]))
    assert found.rounds == 1


def test_a_span_that_an_exception_ends_is_recorded_and_recording_ends_with_its_block():
    with pytest.raises(LookupError), recording() as found, span("round", 1), span("train"):
        raise LookupError
    assert kinds(found) == [(0, "train", -1), (0, "round", 1)]
    with span("round", 2):
        pass
    assert found.rounds == 1


def test_past_its_bound_a_recording_keeps_sums_alone():
    with recording(most=3) as found:
        for _ in range(10):
            with span("round"):
                time.sleep(0.001)
    assert len(found.spans) == 3
    assert found.left_out == 7
    assert found.rounds == 10
    assert found.own[SERVER]["round"] >= 10e6


def test_what_another_track_does_is_no_part_of_the_span_around_it():
    with recording() as found, span("wait"), on_track(FIRST_WORKER), span("client", 3):
        time.sleep(0.01)
    assert kinds(found) == [(1, "client", 3), (0, "wait", -1)]
    assert found.own[SERVER]["wait"] >= found.own[FIRST_WORKER]["client"] >= 10e6


def test_what_a_fork_records_lies_on_its_parents_time_axis_and_counts_there():
    with recording() as found:
        with span("round", 1):
            ours, theirs = os.pipe()
            child = os.fork()
            if not child:
                forked(2)
                with span("client", 5), span("train", 5):
                    time.sleep(0.01)
                os.write(theirs, taken() + b"\n" + taken())
                os._exit(0)
            os.waitpid(child, 0)
            first, second = os.read(ours, 1 << 16).split(b"\n")
        merged(first)
        merged(second)
    os.close(ours)
    os.close(theirs)
    assert json.loads(second) == {"spans": [], "own": {}, "left_out": 0}
    assert kinds(found) == [(0, "round", 1), (2, "train", 5), (2, "client", 5)]
    around, train, client = found.spans
    assert around.began <= client.began <= train.began <= train.ended <= client.ended <= around.ended
    assert found.own[2].total() == client.ended - client.began
    assert found.rounds == 1


def test_what_is_merged_counts_towards_the_bound_and_adds_up():
    part = Recording()
    part.add(Span(1, "train", 0, 50, 1))
    data = json.dumps({"spans": part.spans, "own": part.own, "left_out": 2}).encode()
    whole = Recording(most=1)
    whole.merge(data)
    whole.merge(data)
    assert whole.spans == [Span(1, "train", 0, 50, 1)]
    assert whole.left_out == 1 + 2 * 2
    assert whole.own == {1: {"train": 100}}


def test_a_span_of_who_can_no_longer_tell_of_it_goes_from_then_to_now():
    began = time.perf_counter()
    with recording() as found:
        noted(3, "lost", began, 9)
    (one,) = found.spans
    assert (one.track, one.kind, one.number) == (3, "lost", 9)
    assert one.began == pytest.approx(began * 1e9, abs=1000)
    assert one.ended <= found.ended


def test_suspended_time_belongs_to_no_span() -> None:
    with recording() as found, span("client", 3), span("train"):
        time.sleep(0.01)
        with suspended():
            time.sleep(0.05)
        time.sleep(0.01)
    assert [(one.kind, one.number) for one in found.spans] == [("train", -1), ("client", 3)] * 2
    assert 0.02 <= sum(found.own[0].values()) / 1e9 < 0.05
    assert found.spans[2].began >= found.spans[1].ended
