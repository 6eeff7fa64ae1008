"""What an API that was rolled back says of jobs whose recipes only the release before it knows."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.dependencies import Services
from service.adapters.migrate import upgrade
from service.adapters.sql.database import Database
from service.adapters.sql.job_store import SqlJobStore
from service.adapters.sql.tables import jobs
from tests.factories import add_job


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    upgrade(f"sqlite:///{tmp_path}/jobs.db")
    opened = Database(f"sqlite:///{tmp_path}/jobs.db")
    yield opened
    opened.close()


@pytest.fixture
def services(services: Services, database: Database) -> Services:
    return replace(services, store=SqlJobStore(database, services.clock))


@pytest.mark.parametrize("changed", [{"kind": "distill"}, {"moonlight": 1}, {"ratio": "most"}], ids=str)
def test_every_route_of_the_job_refuses_it_with_a_sentence_and_lists_leave_it_out(
    client: TestClient, services: Services, database: Database, changed: dict[str, object]
) -> None:
    known, newer = add_job(services.store), add_job(services.store)
    recipe = newer.recipe.model_dump(mode="json") | changed
    with database.writing() as connection:
        connection.execute(update(jobs).where(jobs.c.id == newer.id).values(recipe=recipe))

    for method, path in (
        ("GET", ""),
        ("GET", "/report"),
        ("GET", "/files"),
        ("GET", "/events?limit=5"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        answer = client.request(method, f"/v1/jobs/{newer.id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "recipe_unknown"), path
        assert "accepted by a newer release" in answer.json()["detail"]
        assert next(iter(changed)) in answer.json()["detail"] or "kind" in changed
    assert [job["id"] for job in client.get("/v1/jobs").json()["data"]] == [known.id]
    assert client.get(f"/v1/jobs/{known.id}").status_code == 200
