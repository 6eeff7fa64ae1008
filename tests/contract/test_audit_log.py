"""What every AuditLog promises: entries stay as they were added, numbered, newest first."""

from dataclasses import replace

from service.ports.access import AuditLog
from service.records.audit import AuditEntry, AuditFilter
from tests.factories import StoppedClock, run_at_once


def make_entry(clock: StoppedClock, **fields: object) -> AuditEntry:
    entry = AuditEntry(clock(), "job.post", "/v1/jobs/job_1", "ok", "a", "key_1", "r1", "127.0.0.1")
    return replace(entry, **fields)  # type: ignore[arg-type]


def test_entries_come_back_newest_first_in_pages(audit: AuditLog, clock: StoppedClock) -> None:
    for number in range(5):
        audit.append(make_entry(clock, object=str(number)))
        clock.advance(1)
    first = audit.page(AuditFilter(), 3, None)
    rest = audit.page(AuditFilter(), 3, first.entries[-1].number)

    assert [entry.object for entry in first.entries + rest.entries] == ["4", "3", "2", "1", "0"]
    assert (first.has_more, rest.has_more) == (True, False)
    began = make_entry(clock).time
    assert replace(rest.entries[-1], number=0, time=began) == make_entry(clock, object="0")


def test_entries_are_filtered(audit: AuditLog, clock: StoppedClock) -> None:
    audit.append(make_entry(clock))
    audit.append(make_entry(clock, owner="b"))
    audit.append(make_entry(clock, owner=None, key_id=None, action="authenticate"))

    def found(**fields: str) -> int:
        return len(audit.page(AuditFilter(**fields), 10, None).entries)

    assert (found(), found(owner="a"), found(action="authenticate"), found(owner="b", action="x")) == (3, 1, 1, 0)
    assert found(owner="\0\ud800") == 0


def test_what_clients_send_never_makes_an_entry_fail(audit: AuditLog, clock: StoppedClock) -> None:
    audit.append(make_entry(clock, object="/v1/jobs/\0\ud800" + "x" * 5000, address="a" * 500))
    assert audit.page(AuditFilter(), 10, None).entries[0].object.startswith("/v1/jobs/")


def test_numbers_of_entries_added_at_once_differ(audit: AuditLog, clock: StoppedClock) -> None:
    run_at_once(8, lambda number: audit.append(make_entry(clock, object=str(number))))
    entries = audit.page(AuditFilter(), 100, None).entries
    assert len({entry.number for entry in entries}) == 8
