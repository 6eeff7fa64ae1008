import math

import pytest

from service.foundation.strict_json import NotStrictJson, parse_object


def test_plain_json_is_read() -> None:
    assert parse_object('{"a": [1, 2.5, null, {"é": "\\u00e9 \\ud83d\\ude00"}]}'.encode()) == {
        "a": [1, 2.5, None, {"é": "é 😀"}]
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[1]",
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"b": {"a": 1, "a": 1}}',
        b'{"a": "\\u0000"}',
        b'{"a": ["\\ud800"]}',
        b'{"\\udc00": 1}',
        b'{"a": "\x00"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_what_parsers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(NotStrictJson):
        parse_object(data)


def test_constants_pass_only_where_they_are_allowed() -> None:
    assert math.isinf(parse_object(b'{"a": Infinity}', allow_constants=True)["a"])
    assert math.isnan(parse_object(b'{"a": NaN}', allow_constants=True)["a"])
