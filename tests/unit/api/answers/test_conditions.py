"""What a request asks to be answered with."""

import pytest

from api.answers.conditions import prefers


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=nonsense", False),
    ],
)
def test_a_page_is_given_to_those_who_prefer_it(accept: str, wanted: bool) -> None:
    assert prefers(accept, "text/html") is wanted
