"""Examples for the OpenAPI document: one for every answer with a body, and one for every error.

Answers are made by the views themselves from sample values, so that no example can name a field that is not there.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from api import schemas
from api.answers.job_views import job_view
from api.documents.report_example import report_example
from headroom.contract.answers.answer import Answer
from headroom.contract.answers.dry_run import DryRunView
from headroom.contract.answers.job import AttemptRecord, EventView, Phase, Status
from headroom.contract.answers.results import CompressResult, RevisionResult
from headroom.contract.answers.stored import CorpusView, FileView, ModelView
from headroom.contract.recipe import RECIPES
from service.ports.files import Corpus
from service.records.job import Event, Job
from service.records.webhooks import Delivery, DeliveryStatus

Example = dict[str, Any]  # {"summary", "value"}

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
CORPUS_ID = "corpus_bf58010f34aa5f91c43b939fa3b55269"
JOB_ID = "job_4c7039305485acb0e1fb3124f0844958"
SHA256 = "9b2c4b4d649fd1f23a5b0a3ed1f9a7d6c8e5b4a39281706f5e4d3c2b1a09f8e7"

# The bodies of POST /v1/jobs, one for each kind and for the usual variants.
RECIPES_SHOWN: dict[str, dict[str, Any]] = {
    "As much as passes": {"model": "acme/tiny", "corpus": CORPUS_ID, "drift": {"perplexity": 0.01, "kl": 0.02}},
    "A fixed ratio": {"model": "acme/tiny", "corpus": CORPUS_ID, "ratio": 0.3, "publish": {"repo": "acme/tiny-slim"}},
    "In bit planes": {
        "model": "acme/tiny",
        "corpus": CORPUS_ID,
        "options": {"head_dtype": "planes", "planes": {"bits": 4, "rescored": 1024}},
    },
    "Rounded to 8 bits": {"model": "acme/tiny", "corpus": CORPUS_ID, "options": {"head_dtype": "int8"}},
    "Told when it ends": {"model": "acme/tiny", "corpus": CORPUS_ID, "webhook": {"url": "https://ci.example.org/hook"}},
    "Analyze": {"kind": "analyze", "model": "acme/tiny", "corpus": {"text": "A text of some thousand words."}},
    "Steer": {
        "kind": "steer",
        "model": {"id": "acme/tiny", "revision": "main"},
        "corpus": CORPUS_ID,
        "tokens": [{"text": " hello", "multiplier": 5.0}],
        "max_kl": 0.05,
    },
    "Compare": {"kind": "compare", "model": "acme/tiny", "other": "acme/tiny-slim", "corpus": CORPUS_ID},
    "Dynamics": {
        "kind": "dynamics",
        "model": "acme/tiny",
        "checkpoints": [{"id": "acme/tiny", "revision": "checkpoint-500"}],
        "corpus": CORPUS_ID,
    },
}

RESULT = CompressResult(
    ratio=0.3,
    kept_columns=136,
    perplexity_after=213.1,
    perplexity_drift=0.0005,
    perplexity_drift_low=0.0002,
    perplexity_drift_high=0.0008,
    kl_mean=0.002,
    top1_agreement=0.98,
    passes=True,
    hidden_size=192,
    perplexity_before=213.0,
    largest_passing_ratio=0.8,
    revisions=(RevisionResult(name="k96", ratio=0.5, kept_columns=96, passes=False, perplexity_drift=0.026),),
    checkpoint_bytes_before=8_590_624,
    checkpoint_bytes_after=8_640_128,
    head_bytes_before=3_145_728,
    head_bytes_after=2_297_856,
)


def _job(status: Status, **fields: Any) -> dict[str, Any]:
    recipe = RECIPES.validate_python(RECIPES_SHOWN["A fixed ratio"])
    job = Job(id=JOB_ID, recipe=recipe, created=NOON, queued=NOON, status=status, **fields)
    return job_view(job).model_dump(mode="json")


def _running() -> dict[str, Any]:
    started = NOON + timedelta(seconds=1)
    return _job(
        Status.RUNNING,
        phase=Phase.ENCODING,
        progress=0.21,
        attempt=1,
        started=started,
        phase_seconds={"fetching": 0.8},
        attempts=(AttemptRecord(1, "worker-1:20325", started),),
    )


def _succeeded() -> dict[str, Any]:
    started, finished = NOON + timedelta(seconds=1), NOON + timedelta(seconds=41)
    return _job(
        Status.SUCCEEDED,
        phase=Phase.PUBLISHING,
        progress=1.0,
        attempt=1,
        started=started,
        finished=finished,
        phase_seconds={"fetching": 0.8, "encoding": 21.4, "sweeping": 9.6},
        attempts=(AttemptRecord(1, "worker-1:20325", started, finished, "succeeded"),),
        result=RESULT.model_dump(mode="json"),
    )


def _corpus() -> dict[str, Any]:
    return CorpusView.model_validate(Corpus(CORPUS_ID, SHA256, 252_180, "jsonl", "text", NOON)).model_dump(mode="json")


def _view(view: type[Answer], **fields: Any) -> dict[str, Any]:
    return view.model_validate(fields).model_dump(mode="json")


def _one(value: Any, summary: str = "An answer") -> dict[str, Example]:
    return {"example": {"summary": summary, "value": value}}


def _event() -> dict[str, Any]:
    return EventView.model_validate(Event(JOB_ID, 2, NOON, "status", {"status": "running"})).model_dump(mode="json")


def _dry_run() -> dict[str, Any]:
    return _view(
        DryRunView,
        valid=True,
        model={"id": "acme/tiny", "revision": None, "bytes": 8_590_624, "dtype": "bfloat16"},
        head={"vocab_size": 8192, "hidden_size": 192, "tied": True, "bytes": 3_145_728},
        estimate={
            "kept_columns": 136,
            "head_bytes_after": 2_297_856,
            "seconds": 43.8,
            "memory_bytes": 636_115_744,
            "least_memory_bytes": 612_000_000,
        },
    )


def _ready(is_ready: bool) -> dict[str, Any]:
    count = int(is_ready)
    checks = {
        "database": {"ok": True, "detail": "answers"},
        "broker": {"ok": True, "detail": "answers"},
        "disk": {"ok": True, "detail": "52000000000 bytes free"},
        "workers": {"ok": is_ready, "detail": f"{count} answering"},
    }
    return _view(schemas.ReadinessView, ready=is_ready, checks=checks)


EVENTS_SHOWN = 'event: status\ndata: {"number":2,"type":"status","data":{"status":"running"}}\nid: 2\n\n'
METRICS_SHOWN = "# HELP headroom_queue_depth Queued jobs that may run now.\nheadroom_queue_depth 2.0\n"


def request_examples() -> dict[tuple[str, str], dict[str, dict[str, Example]]]:
    """(method, path) -> media type -> examples of the body."""
    recipes = {name.lower().replace(" ", "_"): {"summary": name, "value": body} for name, body in RECIPES_SHOWN.items()}
    lines = '{"text": "The first text."}\n{"text": "The second."}\n'
    return {
        ("post", "/v1/jobs"): {"application/json": recipes},
        ("post", "/session"): {"application/json": _one({"key": "hr_0123456789abcdef_..."}, "A key")},
        ("post", "/v1/corpora"): {
            "text/plain": _one("It was a dark and stormy night.\n", "A text"),
        }
        | {f"application/{name}": _one(lines, "JSON lines") for name in ("jsonl", "x-ndjson", "x-jsonlines")},
    }


def _delivery(status: DeliveryStatus, number: int = 1, **fields: Any) -> dict[str, Any]:
    sent = Delivery(JOB_ID, number, f"msg_{'0' * 32}", "job.succeeded", "", NOON, status, **fields)
    return schemas.DeliveryView.of(sent).model_dump(mode="json")


def answer_examples() -> dict[tuple[str, str, str], dict[str, dict[str, Example]]]:
    """(method, path, status) -> media type -> examples."""
    as_json = {
        ("post", "/v1/jobs", "202"): _one(_job(Status.QUEUED), "Queued"),
        ("post", "/v1/jobs", "200"): _one(_dry_run(), "Only validated"),
        ("get", "/v1/jobs", "200"): _one({"data": [_running()], "has_more": False}),
        ("get", "/v1/jobs/{job_id}", "200"): _one(_succeeded(), "Succeeded"),
        ("post", "/v1/jobs/{job_id}/cancel", "202"): _one(_job(Status.CANCELED, finished=NOON), "Canceled at once"),
        ("post", "/v1/jobs/{job_id}/cancel", "200"): _one(_running() | {"status": "canceling"}, "Asked before"),
        ("get", "/v1/jobs/{job_id}/report", "200"): _one(
            report_example(JOB_ID, "acme/tiny"), "Of a compress job, short"
        ),
        ("get", "/v1/jobs/{job_id}/figures", "200"): _one(
            {"drift": {"data": [{"type": "scatter", "x": [0.1, 0.3], "y": [1e-5, 5e-4]}], "layout": {}}}, "One plot"
        ),
        ("get", "/v1/jobs/{job_id}/events", "200"): _one({"data": [_event()], "has_more": False}),
        ("get", "/v1/jobs/{job_id}/deliveries", "200"): _one(
            {"data": [_delivery(DeliveryStatus.DELIVERED, attempts=1)]}
        ),
        ("post", "/v1/jobs/{job_id}/deliveries/{number}/replay", "202"): _one(
            _delivery(DeliveryStatus.PENDING, number=2, replay_of=1, next_attempt=NOON)
        ),
        ("get", "/v1/jobs/{job_id}/files", "200"): _one(
            {"data": [_view(FileView, path="model.safetensors", size=8_640_128, sha256=SHA256)]}
        ),
        ("post", "/v1/corpora", "201"): _one(_corpus(), "Stored"),
        ("post", "/v1/corpora", "200"): _one(_corpus(), "It was there already"),
        ("get", "/v1/corpora", "200"): _one({"data": [_corpus()]}),
        ("get", "/v1/corpora/{corpus_id}", "200"): _one(_corpus()),
        ("get", "/v1/models", "200"): _one(
            {
                "data": [
                    _view(ModelView, id="acme/tiny", kind="local"),
                    _view(ModelView, id="acme/tiny", kind="output", job_id=JOB_ID, repository="acme/tiny-slim"),
                ]
            }
        ),
        ("get", "/v1/audit", "200"): _one({"data": [_audited()], "has_more": False}),
        ("get", "/session", "200"): _one(_session(None), "Nobody is signed in"),
        ("post", "/session", "200"): _one(_session("search"), "Signed in"),
        ("get", "/livez", "200"): _one({"status": "ok"}),
        ("get", "/readyz", "200"): _one(_ready(True), "A job posted now would run"),
        ("get", "/readyz", "503"): _one(_ready(False), "No worker answers"),
    }
    found = {key: {"application/json": examples} for key, examples in as_json.items()}
    stream = {"text/event-stream": _one(EVENTS_SHOWN, "As a stream")}
    found["get", "/v1/jobs/{job_id}/events", "200"] |= stream
    job = json.dumps(_running(), separators=(",", ":"))
    found["get", "/v1/events", "200"] = {"text/event-stream": _one(f"event: job\ndata: {job}\n\n")}
    found["get", "/metrics", "200"] = {"text/plain": _one(METRICS_SHOWN)}
    return found


def _session(owner: str | None) -> dict[str, Any]:
    scopes = ["artifacts:read", "jobs:read", "jobs:write"] if owner else []
    key_id = "0123456789abcdef" if owner else None
    return _view(schemas.SessionView, open=False, owner=owner, key_id=key_id, scopes=scopes)


def _audited() -> dict[str, Any]:
    return _view(
        schemas.AuditEntryView,
        number=17,
        time=NOON,
        action="job.cancel",
        object=JOB_ID,
        outcome="ok",
        owner="search",
        key_id="0123456789abcdef",
        request_id="a1a77933a26c94abd46fb9b5fd2f010f",
        address="10.1.2.3",
    )


# What each error says, such as it is met; its title and status are those of api/errors.py.
DETAILS = {
    "invalid_request": "ratio: Input should be less than 1",
    "malformed_body": "the body is no strict JSON: NaN is no JSON number",
    "not_found": "Not Found",
    "method_not_allowed": "Method Not Allowed",
    "body_too_large": "the body is larger than 4,000,000 bytes; send a smaller one",
    "unsupported_media_type": "send the body as JSON, with Content-Type: application/json",
    "range_not_satisfiable": "model.safetensors has 8640128 bytes",
    "http_error": "the request cannot be answered",
    "unauthenticated": "this server asks for a key; send it as Authorization: Bearer hr_...",
    "forbidden": "the key lacks the scope jobs:write; ask the operator for one that has it",
    "job_not_found": f"there is no job {JOB_ID}",
    "job_finished": f"job {JOB_ID} has succeeded and cannot be canceled",
    "corpus_not_found": f"there is no corpus {CORPUS_ID}; upload it first",
    "corpus_empty": "the corpus holds no text; send some",
    "corpus_in_use": f"a job that has not ended reads {CORPUS_ID}; cancel it, or wait, and delete it then",
    "model_not_found": "there is no model acme/nothing on this machine or on the hub",
    "store_unavailable": "the database does not answer; try again in a moment",
    "internal_error": "This is a defect of the server; its log has more under this request_id.",
}
