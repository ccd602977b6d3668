"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to change, as learner.batches=20.")
]
Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUN]", help="Folder of the run, or its run file; default: the newest here or under runs/."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Redis = Annotated[str, typer.Option(help="The broker's URL, without password; default: $ISENTROPE_REDIS_URL.")]
PasswordFile = Annotated[str, typer.Option(help="File with the broker's password, if its URL has none.")]
Authorities = Annotated[str, typer.Option(help="PEM file of authorities for rediss; default: the system's.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow a broker on another host without password.")]
UnseenRun = Annotated[str, typer.Option("--run", help="Name of the run, where its folder is not seen.")]
StoppedCode = Annotated[
    int, typer.Option(min=0, max=255, help="Exit code after a stop that another start goes on from.")
]
PerGpu = Annotated[
    bool, typer.Option("--per-gpu", help="An actor for each GPU here, or for as many as one needs; kept up.")
]
Only = Annotated[str, typer.Option(metavar="train|rollout", help="Train kept groups; or make and keep groups.")]
BeginFrom = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="RUN", help="Run whose newest checkpoint a new run begins with.", show_default=False
    ),
]
Groups = Annotated[
    Path | None, typer.Option(metavar="RUN", help="With --only train: the run that has kept them.", show_default=False)
]
