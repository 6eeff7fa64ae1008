"""What every command does that posts a job on a model and follows it: check the corpus, find a server, post, follow."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from headroom.client.client import Client
from headroom.commands.posting.corpus_argument import check_corpus
from headroom.commands.posting.following import Run, follow
from headroom.commands.posting.model_argument import ModelChoice, choose_model
from headroom.commands.terminal.options import reading_options
from headroom.commands.terminal.server import connect, server_for
from headroom.commands.terminal.signals import signals_as_interrupts


def chosen_model(model: str, given: Mapping[str, Any]) -> ModelChoice:
    """given: values of `job_options`."""
    return choose_model(model, models_dir_of(given), remote=given["server"] is not None)


def models_dir_of(given: Mapping[str, Any]) -> Path | None:
    return Path(given["models_dir"]) if given["models_dir"] else None


def post_job(
    kind: str,
    model: ModelChoice,
    given: Mapping[str, Any],
    doing: str,
    fields: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> int:
    """The exit code. given: values of `job_options`; fields, options: the recipe's own, beside those.

    doing: told before it starts; folder: where the job's files go, None where it makes none.
    """
    check_corpus(given["corpus"])
    post = partial(
        Client.submit,
        kind=kind,
        model=model.id,
        corpus=given["corpus"],
        field=given["field"],
        revision=given["revision"],
        options=reading_options(given) | dict(options or {}),
        labels=given["labels"],
        **fields,
    )
    with (
        signals_as_interrupts(),
        server_for(given["server"], Path(given["data_dir"]), model.models_dir) as url,
        connect(url) as client,
    ):
        return follow(client, Run(doing, post, folder, given["as_json"]))
