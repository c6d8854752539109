"""The commands below ``fedbonsai flower``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="flower", help="Make what a federation of devices on Flower needs.", rich_markup_mode=None)

Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", hidden=True)]

CERTIFICATES = """\
{directory}/ca.crt       for everybody: what a device trusts the server by
{directory}/server.crt   for the server, as {hosts}
{directory}/server.key   for the server alone
{directory}/node-0       for the first device alone; node-0.pub for the server ({nodes} in all)

For tests: good until {until}, and nobody can sign another. They are used so, on the server:

flower-superlink --host 127.0.0.1 --port 8000 --enable-supernode-auth --ssl-ca-certfile {directory}/ca.crt \
--ssl-certfile {directory}/server.crt --ssl-keyfile {directory}/server.key --disable-runtime-dependency-installation
flwr supernode register {directory}/node-0.pub NAME

where ~/.flwr/config.toml has

[superlink.NAME]
address = "127.0.0.1:8000"
root-certificates = "{directory}/ca.crt"

and on the first device, which has ca.crt and node-0, where PORT is that of a proxy, because devices must reach no more
of a SuperLink than /v1/fleet/ (docs/deploy.md):

flower-supernode --superlink {host}:PORT --root-certificates ca.crt --auth-supernode-private-key node-0 \
--node-config "worker='DIRECTORY'"
"""


@app.callback()
def options() -> None:
    """Make what a federation of devices on Flower needs."""


@app.command()
def new(
    directory: Directory,
    name: Annotated[
        str | None, typer.Option(help="Name of the app; that of the directory by default.", show_default=False)
    ] = None,
) -> None:
    """Write a complete, small Flower app with a model and data of your own, which `flwr run` starts."""
    from fedbonsai.flower.project import new_project

    new_project(directory, name)
    print(f"{directory}: task.py has the model and the data, experiment.toml the method, README.md the commands")


@app.command()
def certs(
    directory: Directory,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address by which devices reach the server; may be repeated."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Number of devices; 2 by default.", show_default=False)] = 2,
) -> None:
    """Make the certificates of a test deployment's server and the keys of its devices."""
    try:
        from fedbonsai.flower.certs import make_certificates
    except ModuleNotFoundError as error:
        from fedbonsai.core.errors import ConfigError

        what = "certs needs cryptography, which is not installed; run: pip install 'fedbonsai[flower]'"
        raise ConfigError(what) from error

    made = make_certificates(directory, host or [], nodes)
    print(
        CERTIFICATES.format(
            directory=directory.resolve(),
            hosts=", ".join(made.hosts),
            host=made.hosts[0],
            nodes=made.nodes,
            until=f"{made.until:%Y-%m-%d}",
        ),
        end="",
    )
