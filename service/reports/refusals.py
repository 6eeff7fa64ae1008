"""Why a drift gate refused, in sentences, read from the report. Judges and measures nothing."""

from typing import Any

from headroom.contract.compress import CALIBRATED


def refusals(report: dict[str, Any]) -> list[str]:
    """One sentence for each budget that was exceeded; empty when all were kept, or the job was not judged."""
    return REFUSALS.get(report["kind"], _none)(report)


def _none(_: dict[str, Any]) -> list[str]:
    return []


def _of_compression(report: dict[str, Any]) -> list[str]:
    selected = report["selected"]
    if not selected or selected.get("passes"):
        return []
    name = (report.get("baseline") or {}).get("kind", "perplexity")
    whole = {"name": CALIBRATED, "budget": report["budget"], "selected": selected, "stored": None}
    found = []
    for one in report.get("corpora") or [whole]:
        point, budget = one["selected"], one["budget"]
        high = (one.get("stored") or point)["perplexity_drift_high"]
        where = "" if one["name"] == CALIBRATED else f" on {one['name']}"
        if high is None or high > budget["perplexity"]:
            found.append(_over_perplexity(name + where, high, budget["perplexity"]))
        if budget.get("kl") is not None and (point["kl_mean"] is None or point["kl_mean"] > budget["kl"]):
            found.append(_over_kl(where, point["kl_mean"], budget["kl"]))
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
    found, high = [], whole["perplexity_drift_high"]
    if budget.get("perplexity") is not None and (high is None or high > budget["perplexity"]):
        found.append(_over_perplexity(report["baseline"]["kind"], high, budget["perplexity"]))
    if budget.get("kl") is not None and (whole["kl_mean"] is None or whole["kl_mean"] > budget["kl"]):
        found.append(_over_kl("", whole["kl_mean"], budget["kl"]))
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
