"""A typed, synchronous client of the Headroom service. It measures nothing and needs no torch.

with Client("http://127.0.0.1:8000") as client:
    job = client.compress("acme/tiny", "held-out.jsonl", ratio=0.5)
    if job.wait().status == "succeeded":
        job.download("out")
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack
from urllib.parse import urlencode

from headroom.client.connection import IDEMPOTENCY_KEY, Connection
from headroom.client.event_stream import open_stream
from headroom.client.job_handle import JobHandle
from headroom.client.key import find_key
from headroom.contract.answers.dry_run import DryRunView
from headroom.contract.answers.job import JobView
from headroom.contract.answers.stored import CorpusView, ModelView
from headroom.contract.posted import JobSettings, compress_body, job_body
from headroom.errors import InvalidArgument

CORPUS_ID = re.compile(r"corpus_[0-9a-f]{32}")
CONTENT_TYPES = {".jsonl": "application/jsonl", ".ndjson": "application/jsonl"}  # anything else is text
CONTENT_ENCODINGS = {".gz": "gzip", ".zst": "zstd"}


class Client:
    """One Headroom server. Safe to share between threads; close it, or use it as a context manager.

    key: of `headroom keys create`; `@FILE` reads it from a file. None: HEADROOM_KEY, or none.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 30.0) -> None:
        self._connection = Connection(url, find_key(key), timeout)
        self.url = self._connection.url

    def compress(
        self,
        model: str,
        corpus: str | Path | None = None,
        *,
        text: str | None = None,
        field: str = "text",
        **settings: Unpack[JobSettings],
    ) -> "JobHandle":
        """Post a compression job.

        The corpus is a file (uploaded first; `field` as in upload_corpus), the id of an uploaded one, or `text`; a file
        or an id are those of settings `evaluation` too.
        """
        body = compress_body(model, self._corpus(corpus, text, field), self._uploaded(settings, field))
        return JobHandle(self._connection, JobView.read(self._post_job(body, {})))

    def submit(
        self,
        kind: str,
        model: str,
        corpus: str | Path | None = None,
        *,
        text: str | None = None,
        field: str = "text",
        revision: str | None = None,
        **fields: Any,
    ) -> "JobHandle":
        """Post a job of any kind; `fields` are the recipe's own, as docs/api.md names them."""
        body = job_body(kind, model, self._corpus(corpus, text, field), revision, fields)
        return JobHandle(self._connection, JobView.read(self._post_job(body, {})))

    def validate(
        self,
        model: str,
        corpus: str | Path | None = None,
        *,
        text: str | None = None,
        field: str = "text",
        **settings: Unpack[JobSettings],
    ) -> DryRunView:
        """What `compress` would do; raises what it would raise. A corpus file is uploaded, but no job is made."""
        body = compress_body(model, self._corpus(corpus, text, field), self._uploaded(settings, field))
        return DryRunView.read(self._post_job(body, {"validate_only": "true"}))

    def job(self, job_id: str) -> "JobHandle":
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", job_id):
            raise InvalidArgument(f"'{job_id}' is no job id; ids look like job_0123...; `headroom jobs` lists them.")
        return JobHandle(self._connection, JobView.read(self._connection.json("GET", f"/v1/jobs/{job_id}")))

    def jobs(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator["JobHandle"]:
        """Newest first. Pages are asked for as they are needed; `limit` ends it early."""
        query = _filter(status, kind, model, labels)
        left = limit
        while left is None or left > 0:
            query["limit"] = 100 if left is None else min(left, 100)
            page = self._connection.json("GET", "/v1/jobs", params=query)
            for item in page["data"]:
                yield JobHandle(self._connection, JobView.read(item))
            if not page["has_more"] or not page["data"]:
                return
            query["after"] = page["data"][-1]["id"]
            left = None if left is None else left - len(page["data"])

    def changes(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 20,
    ) -> Iterator["JobHandle"]:
        """The newest jobs, then each again whenever it has changed. Ends when the server ends it, within ten minutes.

        For one job `JobHandle.events` and `JobHandle.wait` are better: they take up again where they broke off.
        """
        query = urlencode(_filter(status, kind, model, labels) | {"limit": limit})
        for message in open_stream(self._connection, f"/v1/events?{query}"):
            if message.type == "job":
                yield JobHandle(self._connection, JobView.read(message.data))

    def upload_corpus(self, path: str | Path, *, field: str = "text") -> CorpusView:
        """Send a text or .jsonl file (also .gz, .zst) as it is read. `field` names the text of a JSON line.

        Two names with a comma between them are the source and target of pairs."""
        path = Path(path)
        encoding = CONTENT_ENCODINGS.get(path.suffix)
        kind = CONTENT_TYPES.get(path.with_suffix("").suffix if encoding else path.suffix, "text/plain")
        headers = {"Content-Type": kind} | ({"Content-Encoding": encoding} if encoding else {})
        query = {"field": field} if kind != "text/plain" else {}
        try:
            with path.open("rb") as stream:
                answer = self._connection.json("POST", "/v1/corpora", params=query, headers=headers, content=stream)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise InvalidArgument(f"The corpus {path} cannot be read: {error.strerror}.") from error
        return CorpusView.read(answer)

    def corpora(self) -> list[CorpusView]:
        return [CorpusView.read(item) for item in self._connection.json("GET", "/v1/corpora")["data"]]

    def corpus(self, corpus_id: str) -> CorpusView:
        return CorpusView.read(self._connection.json("GET", f"/v1/corpora/{_checked_corpus_id(corpus_id)}"))

    def delete_corpus(self, corpus_id: str) -> None:
        """HeadroomError corpus_in_use while a job that has not ended reads it."""
        self._connection.request("DELETE", f"/v1/corpora/{_checked_corpus_id(corpus_id)}")

    def models(self) -> list[ModelView]:
        return [ModelView.read(item) for item in self._connection.json("GET", "/v1/models")["data"]]

    def audit(
        self, *, owner: str | None = None, action: str | None = None, limit: int = 100, after: int | None = None
    ) -> dict[str, Any]:
        """A page of the audit log, newest first, as the server tells it; `after` is the last number of a page before.

        Needs a key with the scope admin.
        """
        asked = {"owner": owner, "action": action, "limit": limit, "after": after}
        query = {name: value for name, value in asked.items() if value is not None}
        page: dict[str, Any] = self._connection.json("GET", "/v1/audit", params=query)
        return page

    def readiness(self) -> dict[str, Any]:
        """`{"ready", "checks"}`: whether a job posted now would run, and what each part of the service says."""
        with self._connection.stream("/readyz", {}) as response:
            response.read()
            answer = self._connection.decode(response)
            if not isinstance(answer, dict) or "checks" not in answer:
                self._connection.raise_for_problem(response)
            found: dict[str, Any] = answer
            return found

    def session(self) -> dict[str, Any]:
        """`{"open", "owner", "key_id", "scopes"}`: for whom the server takes this client; `owner` None is nobody."""
        found: dict[str, Any] = self._connection.json("GET", "/session")
        return found

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post_job(self, body: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        try:
            content = json.dumps(body, allow_nan=False).encode()
        except ValueError as error:
            raise InvalidArgument(
                "NaN and infinities are no numbers to send; check the ratio and the budgets."
            ) from error
        headers = {"Content-Type": "application/json", IDEMPOTENCY_KEY: uuid.uuid4().hex}
        answer: dict[str, Any] = self._connection.json(
            "POST", "/v1/jobs", params=query, headers=headers, content=content
        )
        return answer

    def _corpus(self, corpus: str | Path | None, text: str | None, field: str) -> str | dict[str, str]:
        if (corpus is None) == (text is None):
            raise InvalidArgument("Name one corpus: a file, the id of an uploaded one, or text=...")
        if text is not None:
            return {"text": text}
        return self._corpus_id(corpus or "", field)

    def _corpus_id(self, corpus: str | Path, field: str) -> str:
        if isinstance(corpus, str) and CORPUS_ID.fullmatch(corpus):
            return corpus
        return self.upload_corpus(corpus, field=field).id

    def _uploaded(self, settings: JobSettings, field: str) -> JobSettings:
        """Files of `evaluation` as ids."""
        others = [replace(one, corpus=self._corpus_id(one.corpus, field)) for one in settings.get("evaluation", ())]
        return JobSettings(**{**settings, "evaluation": others})


def _filter(
    status: str | None, kind: str | None, model: str | None, labels: Mapping[str, str] | None
) -> dict[str, Any]:
    query: dict[str, Any] = {f"labels[{key}]": value for key, value in (labels or {}).items()}
    return query | {key: value for key, value in (("status", status), ("kind", kind), ("model", model)) if value}


def _checked_corpus_id(corpus_id: str) -> str:
    if not CORPUS_ID.fullmatch(corpus_id):
        raise InvalidArgument(f"'{corpus_id}' is no id of a corpus; `headroom corpora` lists them.")
    return corpus_id
