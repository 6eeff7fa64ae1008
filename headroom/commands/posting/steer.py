"""`headroom steer MODEL`."""

from pathlib import Path
from typing import Any

import click

from headroom.commands.posting.compress import check_output
from headroom.commands.posting.job_posting import chosen_model, post_job
from headroom.commands.terminal.options import job_options


def read_token(value: str, name: str) -> dict[str, Any]:
    """`TOKEN=MULTIPLIER`; the token may hold '=' itself."""
    token, separator, multiplier = value.rpartition("=")
    try:
        if separator and token:
            return {name: int(token) if name == "id" else token, "multiplier": float(multiplier)}
    except ValueError:
        pass
    raise click.BadParameter(f"'{value}' is not of the form TOKEN=MULTIPLIER, as ' hello=5'.")


def read_tokens(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[dict[str, Any]]:
    return [read_token(value, "id" if option.name == "token_ids" else "text") for value in values]


@click.command("steer")
@click.argument("model")
@click.option(
    "--token", "tokens", multiple=True, callback=read_tokens, metavar="TEXT=M", help="' hello=5': 5 times as probable."
)
@click.option("--token-id", "token_ids", multiple=True, callback=read_tokens, metavar="ID=M", help="The same by id.")
@click.option("--sparse", type=int, metavar="N", help="Edit only the N columns of the largest slopes.")
@click.option("--few-examples", type=int, metavar="N", help="Fit the slope on only so many tokens of text.")
@click.option("--max-kl", type=float, metavar="NATS", help="Refuse when predictions move further than this on average.")
@click.option("--tied", type=click.Choice(["untie", "keep"]), help="What becomes of a head tied to the input table.")
@click.option("--publish", metavar="NS/NAME", help="What the server's hub calls the checkpoint.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: <name>-steered.")
@job_options
def command(
    model: str, output: Path | None, tokens: list[dict[str, Any]], token_ids: list[dict[str, Any]], **given: Any
) -> int:
    """Make tokens of MODEL more or less probable, measure what else moved, and fetch the plain checkpoint.

    Exit codes: 0 succeeded, 2 bad input, 3 over --max-kl, 130 interrupted, 1 anything else.
    """
    if not tokens and not token_ids:
        raise click.UsageError("name at least one token with --token or --token-id")
    choice = chosen_model(model, given)
    folder = output or Path(f"{choice.name}-steered")
    check_output(folder)
    fields = {
        "tokens": tokens + token_ids,
        "edit": None if given["sparse"] is None else {"sparse": given["sparse"]},
        "few_examples": given["few_examples"],
        "max_kl": given["max_kl"],
        "publish": None if given["publish"] is None else {"repo": given["publish"]},
    }
    options = {} if given["tied"] is None else {"tied": given["tied"]}
    return post_job("steer", choice, given, f"Steering {choice.id}", fields, options, folder)
