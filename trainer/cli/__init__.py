"""The command line: the way in and out of the process; the verbs are in `verbs`.

Nothing is imported here that takes time, so that Ctrl-C is handled before anything else happens.
"""

from __future__ import annotations

import gc
import os
import sys

from trainer import interrupts, streams
from trainer.errors import OptlabError, OutputError


def main() -> None:
    """Run the command line; a user's mistake becomes a message on stderr and an exit code, no traceback."""
    from trainer import console
    from trainer.cli.verbs import app

    with streams.guarded():
        try:
            app()
        except OutputError as error:
            if not error.closed:  # who closed the pipe has seen enough
                console.print_error(error)
            sys.exit(error.exit_code)
        except OptlabError as error:
            if interrupts.received():  # an import that it broke may come out as any error
                sys.exit(interrupts.EXIT_CODE)
            console.print_error(error)
            sys.exit(error.exit_code)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts.received() or isinstance(error, KeyboardInterrupt):
                sys.exit(interrupts.EXIT_CODE)
            raise


def script() -> None:
    """Run the command line and end the process at once: the console command.

    torch's modules are a million objects that stay. Walking over them again and again while they are imported
    and taking them apart at the end would be a third of a short run's time.
    """
    interrupts.leave_at_once()
    gc.set_threshold(1_000_000)
    streams.own_descriptors()
    # A window is never opened; an unknown backend, or a file of settings that cannot be read, would make the
    # import of matplotlib fail.
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    from trainer.cli import verbs  # noqa: F401 (typer, rich and pydantic, before KeyboardInterrupt is raised)

    interrupts.remember()
    try:
        main()
    except KeyboardInterrupt:
        os._exit(interrupts.EXIT_CODE)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        os._exit(interrupts.EXIT_CODE if interrupts.received() and not code else code)
