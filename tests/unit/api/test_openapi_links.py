"""Who reads the document finds the way from what was made to everything that can be asked of it."""

from fastapi.testclient import TestClient
from openapi_spec_validator import validate

from tests.unit.api.test_jobs import body


def test_what_makes_a_job_or_a_corpus_links_to_the_routes_of_what_it_made(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    paths = {
        operation["operationId"]: (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    made = {
        "/v1/jobs": client.post("/v1/jobs", json=body()).json()["id"],
        "/v1/corpora": client.post("/v1/corpora", content="text", headers={"Content-Type": "text/plain"}).json()["id"],
    }

    for maker, value in made.items():
        answers = document["paths"][maker]["post"]["responses"]
        (links,) = [answer["links"] for status, answer in answers.items() if status in ("201", "202")]
        reached = set()
        for link in links.values():
            method, path = paths[link["operationId"]]
            ((parameter, expression),) = link["parameters"].items()
            assert (expression, f"{{{parameter}}}" in path) == ("$response.body#/id", True)
            reached.add((method, path))
            if method == "get" and not path.endswith("/events"):
                assert client.get(path.replace(f"{{{parameter}}}", value)).json().get("code") != "not_found"
        wanted = {pair for pair in paths.values() if pair[1].startswith(f"{maker}/{{") and pair[1].count("{") == 1}
        assert reached == wanted
        assert len(reached) >= 2
