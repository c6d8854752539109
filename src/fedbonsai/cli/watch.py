"""``fedbonsai watch``: follow runs by the events in their directories, or a page that shows them."""

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from fedbonsai.cli.screen import Screen
from fedbonsai.core.errors import ConfigError, DataError
from fedbonsai.experiment.directory import EXPERIMENT, RESULT
from fedbonsai.report.events import EVENTS, clean, split
from fedbonsai.report.live import MAX_RUNS, Board, View, from_json, make_board, watched

POLL = 0.25  # seconds between two looks at the files
PATIENCE = 30.0  # seconds; a page that is served says something at least every few
CHUNK = 1 << 20  # bytes
LONGEST = 1 << 24  # bytes of a whole board

Look = Callable[[], Board]
"""Gives the runs as they stand now."""


@dataclass(frozen=True)
class Tail:
    """How far the events of one run have been read.

    Attributes:
        view: What they amount to.
        file: Which file it was; another one under the same name is read from its beginning.
        offset: Bytes read.
        rest: Of a line that is not whole yet.
    """

    view: View
    file: int = 0
    offset: int = 0
    rest: bytes = b""


def watch(source: str, *, web: bool, port: int) -> int:
    """Show runs until all have ended.

    Args:
        source: A directory of a run or a comparison, there or to come; or the address of a page.
        web: Show them as a page on this machine, rather than in the terminal.
        port: Of the page; 0 takes one that is free.

    Returns:
        0 when all ended well, 1 when one failed.

    Raises:
        ConfigError: The address is none, or the page cannot be served.
        DataError: A page that is followed went away or says something else.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    address = source.startswith(("http://", "https://"))
    try:
        if web:
            if address:
                raise ConfigError(f"a page can show a directory only, got {source}; open that address in a browser")
            board = page_server()(looking(Path(source)), port)
        else:
            with Screen() as screen:
                board = show(screen, followed(source) if address else polled(looking(Path(source))))
    except KeyboardInterrupt:  # whoever has seen enough need not be told of resuming
        raise SystemExit(130) from None
    return 0 if board.state == "ended" else 1


def page_server() -> Callable[[Look, int], Board]:
    """What shows runs as a page.

    Raises:
        ConfigError: The packages that this needs are not installed; the message names the extra.
    """
    try:
        from fedbonsai.cli.page import serve
    except ImportError as error:
        raise ConfigError(
            f"a page needs {error.name!r}, which is not installed; run: pip install 'fedbonsai[watch]'"
        ) from error
    return serve


def show(screen: Screen, boards: Iterator[Board]) -> Board:
    """Show one board after the other; return the last one."""
    board = next(boards)
    screen.show(board)
    for board in boards:
        screen.show(board)
    return board


def over(board: Board) -> bool:
    """Whether nothing more is to come."""
    return board.state in ("ended", "failed")


def polled(look: Look) -> Iterator[Board]:
    """The runs, each time that they have changed, until they are over."""
    board = look()
    yield board
    while not over(board):
        time.sleep(POLL)
        board, before = look(), board
        if board != before:
            yield board


def looking(directory: Path) -> Look:
    """Make a function that reads what was added to the events below a directory since it was called last."""
    tails: dict[Path, Tail] = {}

    def look() -> Board:
        runs = runs_below(directory)
        for run in runs:
            label = clean(run.name) if run != directory else ""
            tails[run] = advanced(run, tails.get(run, Tail(View(label))))
        return make_board(str(directory), [tails[run].view for run in runs])

    return look


def runs_below(directory: Path) -> list[Path]:
    """The directory itself when it is that of a run, otherwise those below that are."""
    marks = (EVENTS, EXPERIMENT)
    if any((directory / mark).is_file() for mark in marks):
        return [directory]
    return sorted({found.parent for mark in marks for found in directory.glob(f"*/{mark}")})[:MAX_RUNS]


def advanced(run: Path, tail: Tail) -> Tail:
    """Read what was added to the events of a run; one whose process is gone without a word has failed."""
    gone, start = vanished(tail.view), tail.view.start  # asked before reading: its last words may just have come
    tail = appended(run / EVENTS, tail)
    view = tail.view
    if view.state == "waiting" and (run / RESULT).is_file():
        return replace(tail, view=replace(view, state="ended"))
    if view.state == "running" and view.start == start and gone:
        error = clean(f"process {view.start.pid} ended without a word; fedbonsai resume {run} goes on")
        return replace(tail, view=replace(view, state="failed", error=error))
    return tail


def appended(path: Path, tail: Tail) -> Tail:
    """Read a file from where its tail was left, in pieces of bounded size.

    Raises:
        DataError: It cannot be read.
    """
    try:
        if not path.is_file():  # whatever else has the name might never end
            return Tail(View(tail.view.label))
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_ino != tail.file or facts.st_size < tail.offset:
                tail = Tail(View(tail.view.label), facts.st_ino)
            file.seek(tail.offset)
            while chunk := file.read(CHUNK):
                lines, rest = split(tail.rest, chunk)
                tail = replace(tail, view=watched(tail.view, lines), offset=tail.offset + len(chunk), rest=rest)
    except FileNotFoundError:  # a run that was refused takes its events back
        return Tail(View(tail.view.label))
    except OSError as error:
        raise DataError(f"the events of a run must be readable, {path} is not: {error}") from error
    return tail


def vanished(view: View) -> bool:
    """Whether a run's process was on this machine and is there no more."""
    if view.start.pid is None or view.start.host != platform.node():
        return False
    try:
        os.kill(view.start.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def followed(address: str) -> Iterator[Board]:
    """What a page is told, until all that it shows is over.

    Raises:
        ConfigError: The address is none of a page.
        DataError: The page cannot be reached, went away, or says something else.
    """
    connection = connected(address)
    try:
        connection.request("GET", "/events", headers={"Accept": "text/event-stream"})
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            raise DataError(f"{address} must show a run (fedbonsai watch DIR --web), it answered {answer.status}")
        for data in streamed(answer):
            board = from_json(data)
            yield board
            if over(board):
                return
    except (OSError, HTTPException) as error:
        raise DataError(f"{address} cannot be followed: {error}; is fedbonsai watch DIR --web running?") from error
    finally:
        connection.close()
    raise DataError(f"{address} went away before the run was over; watch its directory, or serve it again")


def connected(address: str) -> HTTPConnection:
    """A connection to the server of an address, without proxies and without being sent elsewhere.

    Raises:
        ConfigError: The address is none of a page.
    """
    try:
        parts = urlsplit(address)
        if parts.scheme == "http" and parts.hostname:
            return HTTPConnection(parts.hostname, parts.port or 80, timeout=PATIENCE)
    except ValueError:
        pass  # a port that is no number, a bracket that is not closed
    raise ConfigError(f"an address must be http://HOST:PORT as fedbonsai watch --web prints it, got {address}")


def streamed(answer: HTTPResponse) -> Iterator[bytes]:
    """The data of server-sent events that have one line of them each, as `fedbonsai.cli.page` sends them.

    Raises:
        DataError: A line is too long.
    """
    while line := answer.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise DataError(f"a page may send at most {LONGEST} bytes at once, it sends more")
        field, _, value = line.strip().partition(b":")
        if field == b"data":
            yield value.strip()
