"""What every CorpusHolds promises: each owner holds for itself, and the last to let go removes."""

from pathlib import Path

from service.access.owned_corpora import OwnedCorpora
from service.adapters.files.directory_corpora import DirectoryCorpora
from service.foundation.errors import StoreUnavailable
from service.ports.access import CorpusHolds
from service.records.callers import Caller
from tests.factories import StoppedClock, run_at_once
from tests.in_memory.job_store import MemoryJobStore

ID = "corpus_" + "a" * 32


def test_a_hold_is_taken_once(holds: CorpusHolds, clock: StoppedClock) -> None:
    began = clock()
    assert holds.hold("a", ID, 10) == (began, True)
    clock.advance(1)

    assert holds.hold("a", ID, 10) == (began, False)
    assert holds.since("a", ID) == began
    assert holds.since("b", ID) is None
    assert holds.since("a", "\0\ud800") is None
    assert (holds.held("a"), holds.held("b")) == ({ID: began}, {})


def test_the_last_hold_of_all_owners_is_told(holds: CorpusHolds, clock: StoppedClock) -> None:
    assert holds.last(ID) is None
    holds.hold("a", ID, 10)
    later = clock.advance(1)
    holds.hold("b", ID, 10)

    assert holds.last(ID) == later
    assert holds.last("corpus_" + "b" * 32) is None


def test_only_the_last_to_let_go_removes(holds: CorpusHolds) -> None:
    removed: list[str] = []
    for owner in ("a", "b"):
        holds.hold(owner, ID, 10)
        holds.hold(owner, ID + "b", 10)
    holds.release("a", ID, lambda: removed.append("too early"))
    assert (holds.since("a", ID), removed) == (None, [])
    assert holds.since("b", ID) is not None

    holds.release("b", ID, lambda: removed.append("last"))
    assert removed == ["last"]
    assert len(holds.held("b")) == 1


def test_everybodys_hold_can_be_ended(holds: CorpusHolds) -> None:
    removed: list[str] = []
    for owner in ("a", "b"):
        holds.hold(owner, ID, 10)
    holds.release(None, ID, lambda: removed.append("all"))

    assert (holds.held("a"), holds.held("b"), removed) == ({}, {}, ["all"])


def test_a_removal_that_fails_keeps_the_hold(holds: CorpusHolds) -> None:
    holds.hold("a", ID, 10)

    def fail() -> None:
        raise OSError("the disk is gone")

    try:
        holds.release("a", ID, fail)
    except OSError:
        assert holds.since("a", ID) is not None
    else:
        raise AssertionError("the error is lost")


def test_what_one_holds_is_there_whoever_else_comes_and_goes(
    holds: CorpusHolds, clock: StoppedClock, tmp_path: Path
) -> None:
    texts = DirectoryCorpora(tmp_path, 1000, clock)
    corpora = OwnedCorpora(texts, holds, MemoryJobStore(clock))

    def come_and_go(number: int) -> int:
        caller, found = Caller(f"owner-{number}", frozenset()), 0
        while found < 10:
            try:
                corpus, _ = corpora.add(caller, iter([b"the same words"]), "text", None)
            except StoreUnavailable:
                continue  # it was just being deleted
            assert texts.path(corpus.id).read_bytes() == b"the same words"
            found += 1
            corpora.delete(caller, corpus.id)
        return found

    assert run_at_once(4, come_and_go) == [10] * 4
    assert texts.all() == []
