"""`python -m service.adapters.backup FOLDER`: a copy of database and files, taken while the service runs.

The database first: files are published before their job succeeds, so every file that the copy of the database knows
is still there to be copied. What was published since is known to no job, or adopted by the one that goes on. The new
folder is a data directory: to restore is to serve it.
"""

import argparse
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from service.adapters.files.durable_files import disk_full_is_typed, sync
from service.foundation.errors import InternalError, ServiceError, StoreUnavailable
from service.foundation.settings import Settings

BUSY_SECONDS = 60.0


def back_up(settings: Settings, target: Path) -> dict[str, int]:
    """Bytes of the database and number of published jobs and corpora that were copied. `target` must not exist yet; it
    appears whole."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with disk_full_is_typed("copying"):
            _copy_database(_sqlite_file(settings), partial / "headroom.db")
            published = corpora = 0
            if not settings.storage_url:  # a bucket is not this machine's to copy
                published = _copy(settings.artifacts_dir / "published", partial / "artifacts" / "published")
                corpora = _copy(settings.corpora_dir, partial / "corpora", "corpus_*")
            sync(partial)
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {"database_bytes": (target / "headroom.db").stat().st_size, "published": published, "corpora": corpora}


def _sqlite_file(settings: Settings) -> Path:
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise StoreUnavailable("this database is backed up by its own tools, before the files: see docs/operations.md")
    return Path(url.database)


def _copy_database(source: Path, target: Path) -> None:
    """A copy as of one moment, whoever writes meanwhile."""
    only_reading = f"{source.absolute().as_uri()}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(only_reading, uri=True, timeout=BUSY_SECONDS)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
            found = writing.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the database {source} cannot be copied: {error}") from error
    if found != ("ok",):
        raise InternalError(f"the copy of the database is damaged: {found}")
    sync(target)


def _copy(source: Path, target: Path, pattern: str = "*") -> int:
    """Whole folders, which appear and go by rename: one that went meanwhile is left out."""
    target.mkdir(parents=True)
    count = 0
    for folder in source.glob(pattern):
        try:
            shutil.copytree(folder, target / folder.name)
        except (FileNotFoundError, shutil.Error):
            if folder.exists():
                raise
            shutil.rmtree(target / folder.name, ignore_errors=True)
        else:
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m service.adapters.backup")
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder.absolute()
    if target.exists():
        sys.exit(f"{target} is there already; name a new folder")
    try:
        copied = back_up(Settings(), target)
    except (OSError, ServiceError) as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(copied) + "\n")


if __name__ == "__main__":
    main()
