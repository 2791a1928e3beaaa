"""The entry points of the command line. The verbs are in `verbs/`.

This module imports nothing slow, so that Ctrl-C is handled from the start.
"""

from __future__ import annotations

import gc
import os
import sys

from trainer import interrupts, streams
from trainer.errors import OptlabError, OutputError


def main() -> None:
    """Run the command line. Print a user's error on stderr without a traceback and set the exit code."""
    from trainer import console
    from trainer.cli.app import command

    with streams.guarded():
        try:
            command()
        except OutputError as error:
            if not error.closed:  # the reader closed the pipe on purpose, as `head` does
                console.print_error(error)
            sys.exit(error.exit_code)
        except OptlabError as error:
            if interrupts.received():  # an interrupted import can raise any error
                sys.exit(interrupts.EXIT_CODE)
            console.print_error(error)
            sys.exit(error.exit_code)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts.received() or isinstance(error, KeyboardInterrupt):
                sys.exit(interrupts.EXIT_CODE)
            raise


def script() -> None:
    """Run the command line as the console command, then exit without interpreter shutdown.

    torch's modules are a million long-lived objects. Collecting garbage during their import and freeing them
    at exit would take a third of a short run's time.
    """
    interrupts.leave_at_once()
    gc.set_threshold(1_000_000)
    streams.own_descriptors()
    # optlab never opens a window. With an unknown backend or an unreadable matplotlibrc, importing matplotlib
    # would fail.
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    from trainer.cli import app  # noqa: F401 (typer and rich, before KeyboardInterrupt is raised)

    interrupts.remember()
    try:
        main()
    except KeyboardInterrupt:
        os._exit(interrupts.EXIT_CODE)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        os._exit(interrupts.EXIT_CODE if interrupts.received() and not code else code)
