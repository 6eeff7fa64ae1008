"""Requests, models and texts that nobody means well with, against a real server. `make fuzz`.

Not part of `make test`. Requests are drawn from openapi.json by schemathesis, valid and invalid ones; models are a good
one of which the safetensors header, config.json or a file of the tokenizer is damaged at random; corpora are random
bytes in every form that is accepted. What must hold: no 5xx but a 503 or 507 that says what is away, every error
problem+json, no job ends as a defect of ours, and the server is alive at the end. HEADROOM_FUZZ_SEED replays a run,
HEADROOM_FUZZ_CASES bounds it.
"""

import contextlib
import gzip
import json
import os
import random
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

from headroom.local.embedded import EmbeddedServer
from tests.tiny_models import make_text, make_tiny_checkpoint

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3000)]

CASES = int(os.environ.get("HEADROOM_FUZZ_CASES", "5000"))
SEED = int(os.environ.get("HEADROOM_FUZZ_SEED", str(secrets.randbelow(10**6))))
WHOLE_JOBS = max(CASES // 100, 2)  # cases that a worker runs to their end
STREAMS = {"/v1/events", "/v1/jobs/{job_id}/events"}  # a stream ends when the client does
AWAY = {503, 507}
FINAL = {"succeeded", "failed", "canceled", "rejected"}
# What a random change of a model may end a job with: whose fault it is must be said rightly.
OURS = {"internal_error", "worker_lost", "stored_mismatch"}
PATIENCE = 30.0


class Served:
    """The server under fire, and what it answered."""

    def __init__(self, url: str, models: Path) -> None:
        self.url, self.models = url, models
        self.http = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)
        self.answers: Counter[str] = Counter()
        made = self.http.post("/v1/corpora", content=make_text(), headers={"Content-Type": "text/plain"})
        self.corpus = made.json()["id"]

    def check(self, status: int, content_type: str, text: str, asked: str) -> None:
        self.answers[f"{status // 100}xx"] += 1
        assert status < 500 or status in AWAY, f"{asked}: {status} {text[:500]}"
        if status >= 400:
            assert content_type.startswith("application/problem+json"), f"{asked}: {status} {content_type} {text[:200]}"
            assert json.loads(text)["detail"], asked

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        answer = self.http.request(method, path, **given)
        self.check(answer.status_code, answer.headers.get("content-type", ""), answer.text, f"{method} {path}")
        return answer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzz")
    make_tiny_checkpoint(folder / "models" / "acme" / "tiny")
    with EmbeddedServer(folder / "data", folder / "models", "127.0.0.1", 0) as server:
        made = Served(server.url, folder / "models")
        yield made
        assert made.ask("GET", "/livez").status_code == 200
        made.http.close()
        sys.stdout.write(f"\n{json.dumps({'seed': SEED, 'cases': CASES, 'answers': made.answers})}\n")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def job_of(served: Served, model: str, **more: Any) -> dict[str, Any]:
    options = {"calibration_tokens": 512, "evaluation_tokens": 512, "window": 32, "continuations": 0, "compare": []}
    return {"model": model, "ratio": 0.5, "corpus": served.corpus, "options": options} | more


def test_requests_drawn_from_the_schema_are_answered_or_refused_with_a_sentence(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    operations = [one for one in operations if one.path not in STREAMS]
    real = {"job_id": served.ask("POST", "/v1/jobs", json=job_of(served, "acme/tiny")).json()["id"]}
    real["corpus_id"] = served.corpus
    each = max(6 * CASES // 10 // (2 * len(operations)), 1)
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except schemathesis.errors.SchemathesisError:
                continue  # nothing of this operation can be wrong

            @seed(SEED)
            @settings(
                max_examples=each,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def try_one(case: Case) -> None:
                for name in (case.path_parameters or {}).keys() & real.keys():
                    if served.answers.total() % 2:  # half of them reach what is there
                        case.path_parameters[name] = real[name]
                if case.method == "DELETE" or case.path.endswith("/cancel"):
                    case.path_parameters.update({name: "job_gone" for name in case.path_parameters or {}})
                response = case.call(base_url=served.url, timeout=PATIENCE)
                kinds = response.headers.get("content-type", [""])
                served.check(response.status_code, kinds[0], response.text, f"{case.method} {case.formatted_path}")

            with contextlib.suppress(Unsatisfiable):  # nothing of this kind can be made of the operation
                try_one()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A few bytes, a cut, a repetition or a number changed."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(max(len(changed), 1))
        match chance.randrange(5):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[place : place + chance.randint(1, 200)]
            case 2:
                changed[place:place] = changed[max(place - 40, 0) : place]
            case 3:
                changed[place:place] = chance.choice([b"-1", b"1e999", b"null", b"[]", b'"', b"\x00", b"99999999999"])
            case 4:
                return bytes(changed[:place])
    return bytes(changed)


def changed_value(value: Any, chance: random.Random) -> Any:
    """A JSON document with one of its values replaced by something of another kind or size."""
    wrong = [None, -1, 0, 10**12, 1.5, "", "x" * 300, [], {}, True, float("1e300"), "../../etc", ["a"], {"a": 1}]
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.2:
            return {name: kept for name, kept in value.items() if name != key}
        return value | {key: changed_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], changed_value(value[place], chance), *value[place + 1 :]]
    return chance.choice(wrong)


def damaged_model(served: Served, number: int, chance: random.Random) -> str:
    """`fuzz/mN`: a good model of which one file is not."""
    folder = served.models / "fuzz" / f"m{number}"
    shutil.copytree(served.models / "acme" / "tiny", folder)
    name = chance.choice(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
    path = folder / name
    if not path.exists():
        path = folder / "config.json"
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        header, rest = data[8 : 8 + size], data[8 + size :]
        if chance.random() < 0.5:
            header = json.dumps(changed_value(json.loads(header), chance)).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header + rest)
        else:
            path.write_bytes(damaged(data[: 8 + size], chance) + rest)
    elif chance.random() < 0.7:
        path.write_text(json.dumps(changed_value(json.loads(data), chance)), encoding="utf-8")
    else:
        path.write_bytes(damaged(data, chance))
    return f"fuzz/m{number}"


def test_damaged_models_are_tried_out_without_harm(served: Served, chance: random.Random) -> None:
    for number in range(3 * CASES // 10):
        model = damaged_model(served, number, chance)
        served.ask("POST", "/v1/jobs", params={"validate_only": "true"}, json=job_of(served, model))
        shutil.rmtree(served.models / model)


def test_jobs_on_damaged_models_end_with_the_right_one_to_blame(served: Served, chance: random.Random) -> None:
    posted: dict[str, str] = {}
    for number in range(WHOLE_JOBS):
        model = damaged_model(served, 10**6 + number, chance)
        answer = served.ask("POST", "/v1/jobs", json=job_of(served, model, drift={"perplexity": 10, "kl": None}))
        if answer.status_code == 202:
            posted[answer.json()["id"]] = model
    for job_id, model in posted.items():
        job = served.ask("GET", f"/v1/jobs/{job_id}").json()
        while job["status"] not in FINAL:
            job = served.ask("GET", f"/v1/jobs/{job_id}").json()
        served.answers[f"job {job['error']['code'] if job['error'] else job['status']}"] += 1
        assert job["error"] is None or job["error"]["code"] not in OURS, f"{model}: {job['error']}"


def test_corpora_of_any_bytes_are_stored_or_refused(served: Served, chance: random.Random) -> None:
    kinds = ["text/plain", "application/jsonl", "application/x-ndjson", "application/octet-stream", "text/html", ""]
    encodings = ["", "gzip", "zstd", "br", "identity"]
    good = json.dumps({"text": make_text()[:2000]}).encode() + b"\n"
    for _ in range(CASES // 10 - WHOLE_JOBS):
        content = chance.choice([chance.randbytes(chance.randrange(4000)), damaged(good, chance), good])
        if chance.random() < 0.3:
            content = damaged(gzip.compress(content), chance)
        headers = {"Content-Type": chance.choice(kinds)}
        if encoding := chance.choice(encodings):
            headers["Content-Encoding"] = encoding
        served.ask("POST", "/v1/corpora", content=content, headers=headers)
