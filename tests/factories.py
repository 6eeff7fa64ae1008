"""Small makers of valid objects for tests. Nothing here touches disk or network unless its name says so."""

from datetime import UTC, datetime
from typing import Any

from service.jobs import Job, new_job_id
from service.recipes import CompressRecipe

CORPUS_ID = "corpus_" + "0" * 32


def make_recipe(**fields: Any) -> CompressRecipe:
    return CompressRecipe.model_validate({"model": "acme/tiny", "ratio": 0.5, "corpus": CORPUS_ID} | fields)


def make_job(**fields: Any) -> Job:
    now = datetime.now(UTC)
    return Job(**({"id": new_job_id(), "recipe": make_recipe(), "created": now, "queued": now} | fields))
