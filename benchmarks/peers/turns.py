"""Engines that hold the rounds of a job in turns."""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from environments import python_of
from jobs import Job, write_job
from numpy.typing import NDArray
from worker import Worker, WorkerError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Engine:
    """What holds rounds.

    Attributes:
        title: As the tables call it.
        script: Its file in ``peers``.
        environment: Whose environment it runs in; ours where there is none.
        options: Further arguments.
        processes: How many of it torchrun starts, if that does.
        alone: Whether it works on while others have their turn.
    """

    title: str
    script: str
    environment: str | None = None
    options: tuple[str, ...] = ()
    processes: int | None = None
    alone: bool = False

    def command(self, folder: Path, envs: Path) -> list[str]:
        """What starts it on the job of a folder."""
        python = sys.executable if self.environment is None else python_of(self.environment, envs)
        launch = [python]
        if self.processes is not None:
            launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]
        return [*launch, str(HERE / self.script), str(folder), *self.options]


@dataclass
class Found:
    """What was measured of an engine: seconds of each round, weights in the end, and what it says of itself."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    weights: list[NDArray[np.float32]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    failure: str = ""

    @property
    def seconds(self) -> float:
        """Median wall seconds of a round."""
        return statistics.median(self.wall)


@dataclass
class Turns:
    """Engines that hold the rounds of one job in turns.

    Attributes:
        folder: The job.
        envs: Where the environments are.
        rounds: The rounds of the job.
        found: What was measured; of an engine that fails, why.
    """

    folder: Path
    envs: Path
    rounds: int
    found: dict[str, Found]
    _workers: dict[str, Worker] = field(default_factory=dict)

    def take(self, engines: Sequence[Engine]) -> None:
        """Start the engines, let them hold all rounds, and end them."""
        try:
            for engine in engines:
                self._attempt(engine, self._start)
            for number in range(self.rounds):
                for engine in engines:
                    self._attempt(engine, partial(self._hold, number))
            for engine in engines:
                self._attempt(engine, self._finish)
        finally:
            for engine in engines:
                if engine.title in self._workers:
                    self._workers.pop(engine.title).close()

    def _attempt(self, engine: Engine, work: Callable[[Engine, Found], None]) -> None:
        own = self.found[engine.title]
        if not own.failure:
            try:
                work(engine, own)
            except (WorkerError, subprocess.CalledProcessError) as error:
                own.failure = str(error)
                print(f"  {engine.title}: {error}", file=sys.stderr, flush=True)

    def _start(self, engine: Engine, _: Found) -> None:
        command = engine.command(self.folder, self.envs)
        self._workers[engine.title] = worker = Worker(command, self.folder / f"{engine.title}.log")
        worker.wait_for("ready")

    def _hold(self, number: int, engine: Engine, own: Found) -> None:
        wall, cpu = self._workers[engine.title].round()
        print(f"  {engine.title}, round {number}: {wall:.3f} s, {cpu:.2f} s of CPU", file=sys.stderr, flush=True)
        if number or self.rounds == 1:
            own.wall.append(wall)
            own.cpu.append(cpu)

    def _finish(self, engine: Engine, own: Found) -> None:
        path = self.folder / f"{engine.title}.npz"
        own.facts = self._workers[engine.title].write_weights(path)
        arrays = np.load(path)
        own.weights = [arrays[str(place)] for place in range(len(arrays))]


def measure(job: Job, engines: Sequence[Engine], rounds: int, envs: Path, seed: int) -> dict[str, Found]:
    """Let engines hold the rounds of a job in turns; the first of each is dropped where there are several.

    Those that work on while they wait come after all others.
    """
    found = {engine.title: Found() for engine in engines}
    with tempfile.TemporaryDirectory() as folder:
        write_job(job, Path(folder), rounds, seed)
        turns = Turns(Path(folder), envs, rounds, found)
        for alone in (False, True):
            turns.take([engine for engine in engines if engine.alone == alone])
    return found
