"""Read JSON that strangers wrote. Refuses what other parsers read differently; knows nothing of what the JSON means."""

import json
import re
from collections import Counter
from typing import Any, NoReturn

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class NotStrictJson(ValueError):
    """One clause that says what is wrong, fit to follow a colon."""


def parse_object(data: bytes, *, allow_constants: bool = False) -> dict[str, Any]:
    """The object in UTF-8 `data`. Refuses duplicate keys, lone surrogates and NUL, and nesting too deep to read.

    `allow_constants` lets NaN and Infinity pass: some configs of honest models hold them.
    """
    try:
        text = data.decode("utf-8")
        parsed = json.loads(
            text,
            object_pairs_hook=_refuse_duplicates,
            parse_constant=float if allow_constants else _refuse_constant,
        )
    except NotStrictJson:
        raise
    except UnicodeDecodeError as error:
        raise NotStrictJson(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise NotStrictJson("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise NotStrictJson(f"not JSON at character {error.pos} ({error.msg})") from None
    except ValueError as error:  # an integer of thousands of digits
        raise NotStrictJson(str(error)) from None
    if not isinstance(parsed, dict):
        raise NotStrictJson("not a JSON object")
    if "\\u" in text or "\0" in text:
        _refuse_unstorable_text(parsed)
    return parsed


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise NotStrictJson(f"the key {twice[:80]!a} appears twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise NotStrictJson(f"{name} is not a JSON number")


def _refuse_unstorable_text(root: object) -> None:
    """Escapes can smuggle in what no database column or UTF-8 answer can carry. A stack, since depth is not ours."""
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, str) and ("\0" in value or LONE_SURROGATE.search(value)):
            raise NotStrictJson("a text holds NUL or a lone surrogate")
