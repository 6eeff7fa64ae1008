"""What can be asked of a job, as the body of POST /v1/jobs. The server checks it; here it is only put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict


@dataclass(frozen=True)
class Evaluation:
    """A further text to measure the drift on: a file, or the id of an uploaded corpus. None: the job's own budget."""

    name: str
    corpus: str | Path
    max_drift: float | None = None


class JobSettings(TypedDict, total=False):
    """Everything about a job but its model and corpus. What is left out takes the server's default."""

    revision: str | None  # of a hub model
    ratio: float | Literal["auto"]  # share of the head's columns to remove; auto: the best head within the budget
    budget: Mapping[str, float] | None  # {"read_bytes": 0.31} or {"kl": 0.004}, instead of ratio and head_dtype
    method: str | None
    max_drift: float | None  # largest relative growth of perplexity, 0.01 = 1 %
    kl_budget: float | None  # largest mean KL divergence, nats per token; math.inf: not bounded, as for max_drift
    min_top1: float | None  # smallest share of positions whose most probable token stays the same
    max_rare_drift: float | None  # largest relative growth of perplexity on tokens of the rarest band
    group_gap: float | None  # largest gap between groups of texts in drift of perplexity; needs options group_field
    evaluation: Sequence[Evaluation]  # the job passes if it passes on each of them
    publish: str | None  # `ns/name`: what the server's hub calls the checkpoint
    ratios: Sequence[float]  # further points of the drift curve
    options: Mapping[str, Any]  # seed, window, evaluation_tokens, ... as the API names them
    labels: Mapping[str, str]
    webhook: str | Mapping[str, Any] | None  # where to tell of the end: an address, or {"url", "secret", "events"}


def compress_body(model: str, corpus: str | dict[str, str], settings: JobSettings) -> dict[str, Any]:
    """`corpus` is the id of an uploaded one, or {"text": ...}; those of `evaluation` are ids."""
    bounds = {
        "max_drift": settings.get("max_drift"),
        "kl_budget": settings.get("kl_budget"),
        "min_top1": settings.get("min_top1"),
        "max_rare_drift": settings.get("max_rare_drift"),
    }
    drift = drift_body(bounds) | _present({"group_gap": settings.get("group_gap")})
    webhook = settings.get("webhook")
    optional = {
        "budget": dict(settings.get("budget") or {}),
        "method": settings.get("method"),
        "drift": drift,
        "evaluation": [_evaluation(one) for one in settings.get("evaluation", ())],
        "publish": _present({"repo": settings.get("publish")}),
        "ratios": list(settings.get("ratios", ())),
        "options": dict(settings.get("options", {})),
        "labels": dict(settings.get("labels", {})),
        "webhook": {"url": webhook} if isinstance(webhook, str) else webhook,
    }
    required = {"ratio": settings.get("ratio", "auto")}
    return job_body("compress", model, corpus, settings.get("revision"), required | optional)


BOUNDS = {"max_drift": "perplexity", "kl_budget": "kl", "min_top1": "top1", "max_rare_drift": "rare_perplexity"}


def drift_body(given: Mapping[str, float | None]) -> dict[str, float | None]:
    """Bounds by the names of `JobSettings`: None is left to the server, infinity bounds nothing."""
    return {BOUNDS[name]: None if value == math.inf else value for name, value in given.items() if value is not None}


def job_body(
    kind: str, model: str, corpus: str | dict[str, str], revision: str | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """The body for a job of any kind; `fields` are those of its recipe, and empty ones are left to the server."""
    required = {"kind": kind, "model": _present({"id": model, "revision": revision}), "corpus": corpus}
    return required | {key: value for key, value in fields.items() if value not in (None, [], {})}


def _evaluation(one: Evaluation) -> dict[str, Any]:
    return _present({"name": one.name, "corpus": one.corpus, "drift": drift_body({"max_drift": one.max_drift}) or None})


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
