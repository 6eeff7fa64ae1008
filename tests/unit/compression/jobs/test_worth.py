"""Apart from the gate: whether a head that passes saves anything worth having."""

from collections.abc import Callable

import pytest

from headroom.contract.report.stored import ByteCounts
from service.compression.jobs.worth import Worth
from service.ports.engine import EngineOutcome, EngineTask, Verdict
from service.reports.refusals import refusals, rejected_for
from service.reports.report_page import write_page
from service.reports.rollout import roll_out
from service.reports.summaries import summarize
from tests.reports import measured

MakeTask = Callable[..., EngineTask]
Run = Callable[[EngineTask], EngineOutcome]


def make_worth(head_after: int = 700, checkpoint_after: int = 4000, decides: bool = True) -> Worth:
    """A head of 1000 bytes in a checkpoint of 4000 that is read whole for every token."""
    sizes = ByteCounts(
        checkpoint_before=4000,
        checkpoint_after=checkpoint_after,
        head_before=1000,
        head_after=head_after,
        decode_read_before=4000,
        decode_read_after=3000 + head_after,
    )
    return Worth(0.3, sizes, decides)


@pytest.mark.parametrize(("head_after", "worth"), [(950, True), (951, False), (1000, False), (1100, False)])
def test_a_token_must_read_a_twentieth_of_the_head_less(head_after: int, worth: bool) -> None:
    assert make_worth(head_after).is_worth_it is worth


@pytest.mark.parametrize(("checkpoint_after", "worth"), [(3700, True), (4300, True), (4301, False)])
def test_a_checkpoint_may_grow_by_no_more_than_every_token_saves(checkpoint_after: int, worth: bool) -> None:
    assert make_worth(checkpoint_after=checkpoint_after).is_worth_it is worth


def test_what_was_asked_for_by_number_is_not_refused_but_told() -> None:
    asked = make_worth(head_after=990, checkpoint_after=4040, decides=False)
    assert not asked.refuses
    sentence = asked.told({}).sentence
    assert sentence.startswith("Hardly worth it: a decoded token reads 0.2% fewer bytes, and the checkpoi")
    assert "grows by 1.0%" in sentence


def test_shares_are_after_over_before() -> None:
    told = make_worth().told({})
    assert (told.head_share, told.decode_read_share, told.checkpoint_share) == (0.7, 0.925, 1.0)


def test_auto_that_saves_next_to_nothing_stores_nothing_and_says_what_would_save_more(
    make_task: MakeTask, run: Run
) -> None:
    free, options = {"kept_columns": 31}, {"column_multiple": 1, "head_dtype": "source"}
    task = make_task(ratio="auto", drift={"perplexity": 9.0, "kl": None}, options=options)
    curve = run(task).report["curve"]
    kl = next(point["kl_mean"] for point in curve if point["kept_columns"] == free["kept_columns"])
    task = make_task(ratio="auto", drift={"perplexity": 9.0, "kl": kl * 1.001}, options=options)
    outcome = run(task)
    assert outcome.verdict is Verdict.REJECT
    assert list(task.staging.iterdir()) == []
    report = outcome.report
    assert report["selected"]["passes"] is True
    assert report["bytes"]["checkpoint_after"] is None
    (sentence,) = refusals(measured(report))
    assert sentence.startswith("Within the budget only 3.1% of the columns can go")
    assert f"read {report['plain']['int8']['share']:.2f} of the head's bytes" in sentence
    assert 0 < report["plain"]["int8"]["kl_mean"] < 1e-3
    assert report["plain"]["int8"]["kept_columns"] == 32
    assert rejected_for(measured(report)) == summarize(measured(report)).rejected_for == "not_worth_it"
    assert report["corpora"][0]["selected"] == report["selected"]
    assert roll_out(measured(report), can_widen=True) is None
    assert "Not worth storing." in write_page(measured(report))


def test_the_same_size_asked_for_by_number_is_stored(make_task: MakeTask, run: Run) -> None:
    outcome = run(make_task(ratio=1 / 32, options={"column_multiple": 1}))
    assert outcome.verdict is Verdict.PUBLISH
    worth = outcome.report["worth"]
    assert (worth["worth_it"], worth["decides"]) == (False, False)
    found = outcome.report["bytes"]
    assert worth["checkpoint_share"] == found["checkpoint_after"] / found["checkpoint_before"]
    assert refusals(measured(outcome.report)) == []
    assert rejected_for(measured(outcome.report)) is None
