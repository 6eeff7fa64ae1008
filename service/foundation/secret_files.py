"""Settings whose value is in a file: `HEADROOM_X_FILE` names the file of `HEADROOM_X`, as secrets are mounted."""

from collections.abc import Iterable, Mapping
from pathlib import Path

SUFFIX = "_FILE"


def read_secret_files(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The contents of the files that `environment` names for these variables, without space around them.

    ValueError, which never shows a content, for a file that cannot be read and for a variable given both ways.
    """
    found: dict[str, str] = {}
    for name in names:
        path = environment.get(name + SUFFIX)
        if not path:
            continue
        if environment.get(name):
            raise ValueError(f"{name} and {name}{SUFFIX} are both set: unset one of them")
        try:
            found[name] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ValueError(f"{name}{SUFFIX} names {path}, which cannot be read: {reason}") from error
    return found
