"""Names of repositories, against the rules of the real client."""

import pytest
from huggingface_hub.utils import validate_repo_id
from pydantic import ValidationError

from headroom.contract.recipe import RECIPES
from headroom.contract.repository_names import default_repository, is_repository_id
from tests.factories import make_job, make_recipe

JOB_ID = "job_0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ("acme/tiny", "headroom/tiny-01234567"),
        ("acme/a--b---c", "headroom/a-b-c-01234567"),
        ("acme/model.git", "headroom/model.git-01234567"),
        ("acme/" + "a" * 96, "headroom/" + "a" * 87 + "-01234567"),
        ("acme/" + "a" * 86 + ".-.b", "headroom/" + "a" * 86 + "-01234567"),
    ],
)
def test_a_default_name_is_one_that_clients_accept(model: str, repository: str) -> None:
    assert default_repository(model, JOB_ID) == repository
    assert is_repository_id(repository)
    validate_repo_id(repository)


@pytest.mark.parametrize(
    "name",
    ["slim", "a/b/c", "a/b--c", "a/b..c", "a/b.git", "a/.b", "a/b-", "-a/b", "a/" + "b" * 97, "a/b c", "headroom/mine"],
)
def test_a_name_that_clients_refuse_or_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        make_recipe(publish={"repo": name})


def test_a_kind_without_files_has_no_repository() -> None:
    fields = make_recipe().model_dump(include={"model", "corpus"})
    analysis = make_job(recipe=RECIPES.validate_python({"kind": "analyze", **fields}))
    assert analysis.repository is None
    assert make_job(recipe=make_recipe(publish={"repo": "acme/slim"})).repository == "acme/slim"
