"""A cache over its limit loses what was used longest ago, and nothing that is in use."""

import os
from pathlib import Path

import pytest

from service.adapters.files.cache_limits import limit_cache
from service.compression.states.hidden_cache import HiddenCache


def nothing() -> set[str]:
    return set()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three entries of 100 bytes: `a` was used longest ago, `c` last."""
    for age, name in enumerate("cba"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(bytes(100))
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    return tmp_path


def names(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


@pytest.mark.parametrize(
    ("limit", "left"), [(0, "abc"), (300, "abc"), (299, "bc"), (200, "bc"), (199, "c"), (100, "c"), (99, "")]
)
def test_what_was_used_longest_ago_goes_until_the_rest_fits(root: Path, limit: int, left: str) -> None:
    freed = limit_cache(root, limit, nothing)

    assert names(root) == list(left)
    assert freed == 100 * (3 - len(left))


def test_what_the_caller_names_stays(root: Path) -> None:
    limit_cache(root, 150, lambda: {"a"})

    assert names(root) == ["a"]


def test_nobody_is_asked_while_everything_fits(root: Path) -> None:
    def asked() -> set[str]:
        raise AssertionError

    assert limit_cache(root, 1000, asked) == 0


def test_an_entry_that_a_job_holds_stays_until_it_is_let_go(root: Path) -> None:
    cache = HiddenCache(root)
    assert cache.hold("a")
    assert not cache.hold("missing")

    limit_cache(root, 1, nothing)
    assert names(root) == ["a"]
    del cache
    limit_cache(root, 1, nothing)

    assert names(root) == []


def test_a_use_makes_an_entry_the_newest(root: Path) -> None:
    HiddenCache(root).hold("a")

    limit_cache(root, 250, nothing)

    assert names(root) == ["a", "c"]


def test_what_dead_processes_were_writing_goes_after_a_day(root: Path) -> None:
    for name in (".staging-old", ".staging-young", ".locks"):
        (root / name).mkdir()
    os.utime(root / ".staging-old", (0, 0))
    os.utime(root / ".locks", (0, 0))

    limit_cache(root, 1000, nothing)

    assert names(root) == [".locks", ".staging-young", "a", "b", "c"]


def test_files_and_links_count_for_what_they_take(tmp_path: Path) -> None:
    (tmp_path / "corpus_1").write_bytes(bytes(100))
    (tmp_path / "models--a--b").mkdir()
    (tmp_path / "models--a--b" / "link").symlink_to(tmp_path / "corpus_1")
    os.utime(tmp_path / "corpus_1", (0, 0))

    assert limit_cache(tmp_path, 99, nothing) == 100
    assert names(tmp_path) == ["models--a--b"]


def test_a_cache_that_was_never_used_is_no_trouble(tmp_path: Path) -> None:
    assert limit_cache(tmp_path / "absent", 1, nothing) == 0
