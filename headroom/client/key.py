"""Where the key comes from that a server asks for. It is never printed."""

import os
import re
from pathlib import Path

from headroom.errors import InvalidArgument

VARIABLE = "HEADROOM_KEY"
PLAIN = re.compile(r"[\x21-\x7e]{1,1000}")


def find_key(given: str | None) -> str | None:
    """What was given, else HEADROOM_KEY; of `@FILE` the content of the file. None: no key."""
    value = given if given is not None else os.environ.get(VARIABLE)
    if not value:
        return None
    if value.startswith("@"):
        try:
            value = Path(value[1:]).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"The key cannot be read from {value[1:]}: {error}.") from error
    key = value.strip()
    if not PLAIN.fullmatch(key):
        raise InvalidArgument("The key holds characters that no key has; is it a file's name without the @?")
    return key
