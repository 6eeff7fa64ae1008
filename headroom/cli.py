"""The `headroom` command: dispatch, and every failure as one line and an exit code. Commands are in headroom/commands.

Exit codes: 0 done, 2 bad input, 3 rejected by the drift gate, 130 interrupted, 1 anything else.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

# Room under headroom/commands, and help. Listed here so that `headroom --help` imports none of them.
COMMANDS = {
    "serve": ("operating", "Run the whole service on this machine."),
    "compress": ("posting", "Compress a model: post the job, follow it, fetch the checkpoint."),
    "analyze": ("posting", "Measure how token probability is encoded in the output head."),
    "steer": ("posting", "Make some tokens more or less probable."),
    "compare": ("posting", "Measure how far one checkpoint's predictions lie from another's."),
    "dynamics": ("posting", "Measure how early in training the head told of token frequency."),
    "jobs": ("jobs", "List jobs, newest first."),
    "show": ("jobs", "Show one job and what it measured."),
    "cancel": ("jobs", "Stop a job."),
    "webhooks": ("jobs", "List what a job's webhook was told; send it again."),
    "delete": ("jobs", "Remove jobs that have ended, with their files."),
    "download": ("jobs", "Fetch and verify a job's files."),
    "restore": ("jobs", "Give a sliced checkpoint its removed columns back."),
    "models": ("jobs", "List the models that the server has; import one from a GGUF file."),
    "health": ("operating", "Tell whether a job posted now would run."),
    "keys": ("operating", "Make, list and revoke the keys of a server."),
    "audit": ("operating", "Show who did what on a server."),
    "backup": ("operating", "Copy a server's database and files."),
    "config": ("operating", "Check the settings of a server."),
    "corpora": ("jobs", "List, upload and delete evaluation texts."),
}
BAD_INPUT = 2
INTERRUPTED = 130


class LazyGroup(click.Group):
    """Imports a command's module when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        room, _ = COMMANDS[cmd_name]
        command: click.Command = importlib.import_module(f"headroom.commands.{room}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, described) for name, (_, described) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headroom-lm", prog_name="headroom")
def cli() -> None:
    """Slice the output head of a language model, and prove that its predictions did not move.

    Exit codes: 0 done, 2 bad input, 3 rejected by the drift gate, 130 interrupted, 1 anything else.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a replaced stream need not be a text file
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # an ASCII terminal gets a '?' for a tick
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command; failures are told on stderr, and on stdout as well where --json asks for it."""
    try:
        return int(cli.main(args=list(arguments), prog_name="headroom", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return BAD_INPUT
    except click.ClickException as error:
        return _fail(arguments, "usage", error.format_message(), BAD_INPUT, {})
    except (click.Abort, KeyboardInterrupt):
        return _fail(arguments, "interrupted", "Stopped before the end.", INTERRUPTED, {})
    except BrokenPipeError:  # the reader of our output has gone; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("HEADROOM_DEBUG"):
            raise
        return _explain(arguments, error)


def _explain(arguments: Sequence[str], error: Exception) -> int:
    from headroom.errors import HeadroomError

    if isinstance(error, HeadroomError):
        fields = {
            "status": error.status,
            "request_id": error.request_id,
            "errors": [{"field": item.field, "message": item.message} for item in error.errors],
        }
        details = [f"{item.field}: {item.message}" for item in error.errors]
        unsaid = "; ".join(detail for detail in details if detail not in error.message)
        message = f"{error.message} ({unsaid})" if unsaid else error.message
        return _fail(arguments, error.code, message, BAD_INPUT if error.is_bad_input else 1, fields)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return _fail(arguments, "io_error", f"{error.strerror or error}{where}.", 1, {})
    message = f"{type(error).__name__}: {error}; set HEADROOM_DEBUG=1 to see where, and please report it."
    return _fail(arguments, "internal_error", message, 1, {})


def _fail(arguments: Sequence[str], code: str, message: str, exit_code: int, fields: dict[str, Any]) -> int:
    from headroom.commands.terminal.output import print_error, print_json

    if "--json" in arguments:
        print_json({"error": {"code": code, "message": message, **fields}})
    print_error(code, message)
    return exit_code


if __name__ == "__main__":
    main()
