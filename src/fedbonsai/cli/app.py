"""The commands: run, tune, compare, resume, watch, methods, datasets, inspect."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedbonsai.cli.flower import app as flower
from fedbonsai.cli.logs import ENVIRONMENT, LogFormat, begin, complain, use
from fedbonsai.core.errors import FedbonsaiError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

# Newer releases of typer bring a click of their own; its exceptions can only be reached through typer's.
UsageProblem: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="fedbonsai",
    help="Train one network across many devices, prune it while it trains, ship it small.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(flower)

# Arguments are told by the usage line: typer 0.20 beside click 8.5 loses their help texts, and stray backslashes come.
What = Annotated[str, typer.Argument(metavar="DATASET|FILE.toml", hidden=True)]
Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", hidden=True)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method or the experiment; may be repeated."),
]
Rounds = Annotated[int | None, typer.Option(help="Training rounds.")]
Clients = Annotated[int | None, typer.Option(help="Number of clients.")]
Cohort = Annotated[int | None, typer.Option(help="Clients in one round.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Engine = Annotated[str | None, typer.Option(help="auto, local, processes or ray; all give equal bits.")]
Device = Annotated[str | None, typer.Option(help="Where training is computed: cpu by default, cuda, cuda:1.")]
DataDir = Annotated[Path | None, typer.Option(help="Where data sets are; otherwise FEDBONSAI_DATA.")]
Out = Annotated[Path | None, typer.Option(help="Directory for the results; runs/NAME by default.")]


@app.callback(help=app.info.help)
def options(
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar=ENVIRONMENT,
            show_envvar=False,
            show_default=False,
            help="What goes to standard error: lines, or one JSON object a line; otherwise FEDBONSAI_LOG.",
        ),
    ] = LogFormat.TEXT,
) -> None:
    """What all commands share."""
    use(log_format)


@app.command()
def run(
    experiment: What,
    method: Annotated[str | None, typer.Option(help="One of `fedbonsai methods`; fedavg by default.")] = None,
    rounds: Rounds = None,
    clients: Clients = None,
    cohort: Cohort = None,
    seed: Seed = None,
    engine: Engine = None,
    device: Device = None,
    data_dir: DataDir = None,
    out: Out = None,
    settings: Set = None,
    profile: Annotated[  # noqa: FBT002 - a flag
        bool,
        typer.Option("--profile", help="Say where the time of the rounds goes; trace.json in --out opens in Perfetto."),
    ] = False,
    explain: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--explain", help="Say how it would be computed and why, and train nothing.")
    ] = False,
) -> None:
    """Train with one method. Finds its checkpoint in --out and goes on from it."""
    from fedbonsai.cli import commands

    given = {"method": method, "rounds": rounds, "clients": clients, "cohort": cohort, "seed": seed}
    given |= {"engine": engine, "device": device}
    if explain:
        commands.explain(experiment, given, settings or [], data_dir)
    else:
        commands.run_one(experiment, given, settings or [], data_dir, out, profile=profile)


@app.command()
def tune(
    experiment: What,
    method: Annotated[str | None, typer.Option(help="One of `fedbonsai methods`; fedavg by default.")] = None,
    clients: Clients = None,
    cohort: Cohort = None,
    device: Device = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Experiment file to write; by default FILE.toml itself, or DATASET.toml.")
    ] = None,
    settings: Set = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are timed of each way.")] = 3,
) -> None:
    """Time the engines and kernels that can compute an experiment, and write the quickest into its file."""
    from fedbonsai.cli.commands import tune_file

    given = {"method": method, "clients": clients, "cohort": cohort, "device": device}
    tune_file(experiment, given, settings or [], data_dir, out, rounds)


@app.command()
def compare(
    experiment: What,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; fedavg,local-prune by default.", show_default=False)
    ] = "fedavg,local-prune",
    densities: Annotated[str, typer.Option(help="Densities for methods that prune, separated by commas.")] = "",
    rounds: Rounds = None,
    clients: Clients = None,
    cohort: Cohort = None,
    seed: Seed = None,
    engine: Engine = None,
    device: Device = None,
    data_dir: DataDir = None,
    out: Out = None,
    settings: Set = None,
) -> None:
    """Train with several methods on the same data, seeds and cohorts; print one table and write one report."""
    from fedbonsai.cli.commands import run_several

    given = {"rounds": rounds, "clients": clients, "cohort": cohort, "seed": seed, "engine": engine, "device": device}
    run_several(experiment, methods.split(","), densities, given, settings or [], data_dir, out)


@app.command()
def resume(
    directory: Directory,
    data_dir: DataDir = None,
) -> None:
    """Go on with an interrupted run or comparison; the result is bit-equal to one that never stopped."""
    from fedbonsai.cli.commands import resume_directory

    resume_directory(directory, data_dir)


@app.command()
def watch(
    source: Annotated[str, typer.Argument(metavar="DIRECTORY|URL", hidden=True)],
    web: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--web", help="Show a page on this machine rather than the terminal.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the page; any free one by default.", show_default=False)] = 0,
) -> None:
    """Show a run or comparison while it goes on, until it ends; exits with 1 when it failed."""
    from fedbonsai.cli.watch import watch as follow

    raise typer.Exit(follow(source, web=web, port=port))


@app.command()
def worker(
    directory: Directory,
    experiment: Annotated[Path, typer.Option(metavar="FILE.toml", help="The experiment, the same as the server's.")],
    clients: Annotated[str, typer.Option(help="Whose data are on this device: numbers, separated by commas.")],
    app_file: Annotated[
        Path | None, typer.Option("--app", metavar="FILE.py", help="Has task() and data(client), for data of your own.")
    ] = None,
    data_dir: DataDir = None,
    device: Device = None,
    supervised: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--supervised", help="Somebody starts it again when it ends, so that the relay need not.")
    ] = False,
) -> None:
    """Be the worker of a device: hold model, data and memory, and do what Flower's relay brings."""
    from fedbonsai.cli.commands import work

    given = {"app": app_file, "data_dir": data_dir, "device": device}
    work(directory, experiment, clients, given, supervised=supervised)


@app.command()
def methods(name: Annotated[str | None, typer.Argument(metavar="[METHOD]", hidden=True)] = None) -> None:
    """List the methods, or the settings of one."""
    from fedbonsai.cli.lists import show_methods

    show_methods(name)


@app.command()
def datasets(name: Annotated[str | None, typer.Argument(metavar="[DATASET]", hidden=True)] = None) -> None:
    """List the data sets, or what one suggests."""
    from fedbonsai.cli.lists import show_datasets

    show_datasets(name)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A message of the wire format, or what wire.dumps wrote.")],
) -> None:
    """Show what an encoded message holds, what it costs, and how far each stream is from its limit."""
    from fedbonsai.cli.lists import show_message

    show_message(file)


def start(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code. An error of our own is one line."""
    begin()
    try:
        # Of a Ctrl-C, typer makes an exception in older versions and a returned code in newer ones.
        code = app(list(arguments) or ["--help"], prog_name="fedbonsai", standalone_mode=False) or 0
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except (FedbonsaiError, UsageProblem) as error:
        text = error.format_message() if isinstance(error, UsageProblem) else str(error)
        complain(" ".join(text.split()), prefix="error: ")
        return 2 if isinstance(error, UsageProblem) else 1
    if code == INTERRUPTED:
        complain("interrupted; `fedbonsai resume DIR` goes on from the last finished round")
    return int(code)
