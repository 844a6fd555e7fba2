"""The command `tandem`. Its commands are in `cli_*.py`, one function each and little logic in it; what they share is in
`command.py`.

Each command imports what it needs: `tandem --help` and `tandem validate` need neither torch nor Ray.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated

import typer
from typer.models import CommandInfo

from orchestrator import (
    cli_data,
    cli_doctor,
    cli_jobs,
    cli_models,
    cli_record,
    cli_render,
    cli_specs,
    cli_start,
)
from orchestrator.command import DEBUG_VARIABLE, FAILED, redact_threads, tell_traceback

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """Entry point of the console script."""
    # Imports make tens of thousands of objects that stay: looking through them again and again for garbage takes a
    # tenth of the time that `tandem validate` does.
    gc.set_threshold(50_000, 20, 20)
    # Pydantic looks for plugins in the metadata of every installed package: none is of use here, nor in the processes
    # that inherit this.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Typer looks at the parameters of all commands: the one that is called is enough.
    called = next((word for word in sys.argv[1:] if word != "--debug"), None)
    app.registered_commands = [
        command for command in app.registered_commands if _name(command) == called
    ] or app.registered_commands
    redact_threads()
    try:
        app()
    except Exception as error:  # not one made for users; Python would show it as it is, with the secrets in it
        tell_traceback(error)
        sys.exit(FAILED)


def _name(command: CommandInfo) -> str | None:
    return command.name or (command.callback and command.callback.__name__)


@app.callback()
def tandem(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG_VARIABLE, help="Show tracebacks of errors, also of your own.")
    ] = False,
) -> None:
    """Contrastive training on Ray clusters: one job spec, the same experiment on any cluster."""
    os.environ.pop(DEBUG_VARIABLE, None)  # it may say 0
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


# In the order in which --help shows them.
for part in (cli_specs, cli_start, cli_jobs, cli_record, cli_models, cli_data, cli_doctor, cli_render):
    part.add_to(app)

if __name__ == "__main__":
    main()
