"""Why a drift gate refused, in sentences, read from the report. Judges and measures nothing."""

from typing import Any

from headroom.contract.compress import CALIBRATED


def refusals(report: dict[str, Any]) -> list[str]:
    """One sentence for each budget that was exceeded, or of what storing would have saved; empty when all is well."""
    return REFUSALS.get(report["kind"], _none)(report)


def is_not_worth_it(report: dict[str, Any]) -> bool:
    """Whether a compress job stored nothing because it would have saved next to nothing."""
    worth = report.get("worth")
    return bool(worth and worth["decides"] and not worth["worth_it"])


def rejected_for(report: dict[str, Any]) -> str | None:
    """`over_budget`, `not_worth_it`, or None."""
    if is_not_worth_it(report):
        return "not_worth_it"
    return "over_budget" if refusals(report) else None


def _none(_: dict[str, Any]) -> list[str]:
    return []


def _of_compression(report: dict[str, Any]) -> list[str]:
    if is_not_worth_it(report):
        return [report["worth"]["sentence"]]
    selected = report["selected"]
    if not selected or selected.get("passes"):
        return []
    name = (report.get("baseline") or {}).get("kind", "perplexity")
    whole = {"name": CALIBRATED, "budget": report["budget"], "selected": selected, "stored": None}
    found = []
    for one in report.get("corpora") or [whole]:
        where = "" if one["name"] == CALIBRATED else f" on {one['name']}"
        # As stored where that was measured; a report from before that has no more than perplexity there.
        measured = one["selected"] | {
            key: value for key, value in (one.get("stored") or {}).items() if value is not None
        }
        found += _over(measured, one["budget"], name, where)
    gap, allowed = report.get("group_gap"), report["budget"].get("group_gap")
    if gap and allowed is not None and gap["high"] > allowed:
        found.append(
            f"The drift of {gap['most']} and {gap['least']} may lie {_percent(gap['high'])} apart; the budget "
            f"for groups is {_percent(allowed)}."
        )
    return found


def _of_comparison(report: dict[str, Any]) -> list[str]:
    budget, whole = report["budget"], report["bands"][0]
    if budget is None or report["passes"]:
        return []
    rare = report["bands"][-1].get("perplexity_drift_high")
    return _over(whole | {"rare_perplexity_drift_high": rare}, budget, report["baseline"]["kind"], "")


def _over(measured: dict[str, Any], budget: dict[str, Any], name: str, where: str) -> list[str]:
    """One sentence for each bound that the figures exceed, or that could not be measured."""
    found, high = [], measured["perplexity_drift_high"]
    if budget.get("perplexity") is not None and (high is None or high > budget["perplexity"]):
        found.append(_over_perplexity(name + where, high, budget["perplexity"]))
    if budget.get("kl") is not None and (measured["kl_mean"] is None or measured["kl_mean"] > budget["kl"]):
        found.append(_over_kl(where, measured["kl_mean"], budget["kl"]))
    same, least = measured.get("top1_agreement"), budget.get("top1")
    if least is not None and (same is None or same < least):
        moved = "not known" if same is None else f"{same:.2%}"
        found.append(
            f"The most probable token stays the same at {moved} of positions{where}; the budget is {least:.2%}."
        )
    rare, allowed = measured.get("rare_perplexity_drift_high"), budget.get("rare_perplexity")
    if allowed is not None and (rare is None or rare > allowed):
        found.append(_over_perplexity(f"{name} of the rarest tokens{where}", rare, allowed))
    return found


def _of_steering(report: dict[str, Any]) -> list[str]:
    steering = report["steering"]
    allowed = steering.get("max_kl")
    over = allowed is not None and (steering["kl_mean"] is None or steering["kl_mean"] > allowed)
    return [_over_kl("", steering["kl_mean"], allowed)] if over else []


REFUSALS = {"compress": _of_compression, "compare": _of_comparison, "steer": _of_steering}


def _over_perplexity(name: str, high: float | None, allowed: float) -> str:
    if high is None:
        return f"The drift of {name} is no finite number; the budget is {_percent(allowed)}."
    return (
        f"The {name} may grow by {_percent(high)} (upper end of the 95 % interval); the budget is {_percent(allowed)}."
    )


def _over_kl(where: str, kl: float | None, allowed: float) -> str:
    found = "no finite number" if kl is None else f"{kl:.3g} nats a token"
    return f"The KL divergence{where} is {found}; the budget is {allowed:g}."


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
