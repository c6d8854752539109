"""What is known of a run from its events: whatever the file holds, and wherever it was cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbonsai.core.errors import DataError
from fedbonsai.report.events import MAX_LINE, MAX_TEXT, brief, clean, parse, split
from fedbonsai.report.live import MAX_NODES, MAX_ROUNDS, View, from_json, make_board, to_json, watched


def line(event, **facts):
    return json.dumps({"event": event, "time": "2030-01-01T00:00:00+00:00", **facts}).encode()


def start(round_=0, moved=0, **facts):
    return line("start", name="a run", digest="abc", rounds=9, round=round_, bytes_down=moved, bytes_up=moved, **facts)


def round_(number, stage="train", moved=10, **facts):
    return line("round", round=number, stage=stage, bytes_down=moved, bytes_up=2 * moved, seconds=0.5, **facts)


EVENTS = [
    start(),
    round_(0, "score", moved=7),
    round_(1, density=0.5),
    line("node", node="edge-1", state="busy", client=3),
    round_(2, density=0.2, test_metric=0.75, clients=2, dropped=1),
    line("end", final={"bytes_down": 27, "bytes_up": 54, "dropped": 1}),
]


def test_a_run_is_seen_from_its_beginning_to_its_end():
    views = [watched(View("edge"), EVENTS[:count]) for count in range(len(EVENTS) + 1)]
    assert [view.state for view in views] == ["waiting", *5 * ["running"], "ended"]
    assert [view.bytes_down for view in views] == [0, 0, 7, 17, 17, 27, 27]
    last = views[-1]
    assert (last.label, last.start.name, last.done, last.bytes_up, last.dropped) == ("edge", "a run", 2, 54, 1)
    assert [one.stage for one in last.rounds] == ["score", "train", "train"]
    assert (last.last("density"), last.last("test_metric"), last.last("train_loss")) == (0.2, 0.75, None)
    assert [(one.node, one.state, one.client) for one in last.nodes] == [("edge-1", "busy", 3)]


def test_a_round_that_is_held_again_counts_once_and_as_it_was_the_last_time():
    lines = [start(), *(round_(number, density=0.5) for number in (1, 2, 3)), round_(2, moved=100, density=0.1)]
    view = watched(View(), lines)
    assert [(one.round, one.density) for one in view.rounds] == [(1, 0.5), (2, 0.1)]
    assert (view.bytes_down, view.bytes_up, view.seconds) == (110, 220, 1.0)


def test_who_goes_on_with_a_run_knows_what_was_moved_before_and_which_rounds_stand():
    lines = [start(), *map(round_, (1, 2, 3)), line("failed", error="no client is left")]
    failed = watched(View(), lines)
    assert (failed.state, failed.error) == ("failed", "no client is left")
    resumed = watched(failed, [start(round_=2, moved=25)])  # the events of the rounds say 20: one of them was lost
    assert (resumed.state, resumed.error, resumed.done, resumed.bytes_down) == ("running", "", 2, 25)
    assert watched(resumed, [round_(3)]).bytes_down == 35
    other = watched(failed, [start(round_=2).replace(b"abc", b"xyz")])
    assert (other.rounds, other.done) == ((), 2)


def test_machines_of_a_process_that_is_gone_are_forgotten_and_of_many_there_is_an_end():
    early = watched(View(), [line("node", node=1, state="idle"), start()])
    assert [one.node for one in early.nodes] == ["1"]
    assert watched(early, [start()]).nodes == ()
    many = watched(View(), [line("node", node=f"n{number}", state="idle") for number in range(MAX_NODES + 5)])
    assert len(many.nodes) == MAX_NODES
    lost = watched(many, [line("node", node="n0", state="lost")])
    assert [one.state for one in lost.nodes][:2] == ["lost", "idle"]


def test_of_many_rounds_some_are_left_out_and_all_are_counted():
    view = watched(View(), [start(), *map(round_, range(1, 1001))])
    assert len(view.rounds) <= MAX_ROUNDS
    assert (view.done, view.bytes_down, view.seconds) == (1000, 10_000, 500.0)
    numbers = [0, *(one.round for one in view.rounds)]
    gaps = [later - earlier for earlier, later in pairwise(numbers)]
    assert min(gaps) == 1
    assert max(gaps) <= 8
    assert numbers[-20:] == list(range(981, 1001))


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x00\xff",
        b"[" * 50_000,
        b"[1]",
        b"7",
        b"null",
        b'{"event": "round"}',
        b'{"event": ["round"]}',
        b'{"event": "flood", "round": 2}',
        b'{"event": "round", "round": -1}',
        b'{"event": "round", "round": 1e999}',
        b'{"event": "round", "round": 1, "stage": "score", "density": NaN}',
        b'{"event": "round", "round": 1, "stage": "score", "bytes_up": 99999999999999999999}',
        b'{"event": "round", "round": ' + b"9" * 5000 + b"}",
        b'{"event": "start", "pid": -1}',
        b'{"event": "end", "final": 3}',
        round_(1, "score", more="x" * MAX_LINE),
        EVENTS[4][:-1],
    ],
)
def test_a_line_that_is_no_event_changes_nothing(junk):
    assert watched(View(), [*EVENTS[:4], junk, *EVENTS[4:]]) == watched(View(), EVENTS)


def test_a_summary_that_makes_no_sense_leaves_what_was_added_up():
    view = watched(View(), [*EVENTS[:-1], line("end", final={"bytes_down": "many", "bytes_up": -1})])
    assert (view.state, view.bytes_down, view.bytes_up) == ("ended", 27, 54)


hostile = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(EVENTS),
    st.dictionaries(
        st.sampled_from(["event", "round", "node", "state", "final", "error", "name", "bytes_up", "seconds", "stage"]),
        st.one_of(
            st.sampled_from(["start", "round", "node", "end", "failed", "train"]),
            st.integers(),
            st.floats(),
            st.text(max_size=400),
            st.none(),
            st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
        ),
    ).map(lambda found: json.dumps(found).encode()),
)


@given(st.lists(hostile, max_size=30))
def test_whatever_stands_in_the_file_what_is_known_is_bounded_and_can_be_sent(lines):
    view = watched(View("edge"), lines)
    assert len(view.rounds) <= MAX_ROUNDS
    texts = [view.error, view.start.name, *(one.stage for one in view.rounds), *(one.node for one in view.nodes)]
    assert all(len(text) <= MAX_TEXT and text.isprintable() for text in texts)
    board = make_board("runs", [view])
    assert from_json(to_json(board)) == board
    assert b"\n" not in to_json(board)


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\x07", b"\n")), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_however_the_file_is_cut_and_the_last_one_waits_for_its_end(data, cuts):
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    found, rest = [], b""
    for one, other in pairwise(places):
        lines, rest = split(rest, data[one:other])
        found += lines
    assert [*found, rest] == data.split(b"\n")


def test_of_a_line_without_an_end_no_more_is_kept_than_shows_that_it_is_too_long():
    rest = b""
    for _ in range(10):
        lines, rest = split(rest, MAX_LINE * b" ")
        assert lines == []
    assert len(rest) == MAX_LINE + 1
    [line], rest = split(rest, EVENTS[1] + b"\n")
    assert parse(line) is None
    assert rest == b""


@pytest.mark.parametrize(
    ("states", "together"),
    [
        ([], "waiting"),
        (["waiting", "waiting"], "waiting"),
        (["ended", "waiting"], "running"),
        (["ended", "running"], "running"),
        (["ended", "ended"], "ended"),
        (["ended", "failed", "waiting"], "failed"),
    ],
)
def test_a_comparison_is_over_when_all_its_runs_are_or_one_has_failed(states, together):
    assert make_board("runs", [View(state=state) for state in states]).state == together


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"source": 3, "state": "ended", "runs": []}', b'{"source": "a", "state": "on"}']
)
def test_a_board_that_is_none_is_refused(data):
    with pytest.raises(DataError, match="must be a run as fedbonsai watch --web shows it"):
        from_json(data)


def test_a_board_from_elsewhere_holds_nothing_that_a_terminal_would_obey():
    board = from_json(b'{"source": "a\\u001b[2J", "state": "ended", "runs": [{"label": "\\u202e<b>"}]}')
    assert (board.source, board.runs[0].label) == ("a\ufffd[2J", "\ufffd<b>")


def test_texts_are_cut_and_can_be_written():
    assert watched(View(), [line("failed", error="\ud800")]).error == "\ufffd"
    assert len(clean("x" * 10_000)) == MAX_TEXT
    assert clean("x" * MAX_TEXT) == "x" * MAX_TEXT


def test_what_is_told_of_a_round_does_not_grow_with_the_number_of_clients():
    row = {"round": 1, "bytes_by_client": {str(one): {} for one in range(9)}, "dropped_why": {}, "traffic": {}}
    assert brief({**row, "density": 0.5}) == {"round": 1, "density": 0.5}
