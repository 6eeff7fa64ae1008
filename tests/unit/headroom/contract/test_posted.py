"""The body of a post, against the model that the server reads it with."""

import math

from headroom.contract.compress import CalibratedDriftBudget, CompressRecipe
from headroom.contract.posted import Evaluation, JobSettings, compress_body

CORPUS = "corpus_" + "0" * 32


def test_what_is_not_given_is_left_to_the_server() -> None:
    body = compress_body("acme/tiny", CORPUS, JobSettings())
    assert body == {"kind": "compress", "model": {"id": "acme/tiny"}, "ratio": "auto", "corpus": CORPUS}


def test_every_setting_arrives_where_the_server_reads_it() -> None:
    settings = JobSettings(
        revision="v1",
        ratio=0.3,
        method="slope",
        max_drift=0.02,
        kl_budget=0.1,
        group_gap=0.05,
        publish="team/slim",
        ratios=[0.1, 0.2],
        evaluation=[Evaluation("prose", CORPUS, 0.05), Evaluation("code", CORPUS)],
        options={"seed": 3, "group_field": "kind", "tied": "untie"},
        labels={"team": "x"},
        webhook="https://ci.example.org/hook",
    )
    recipe = CompressRecipe.model_validate(compress_body("acme/tiny", {"text": "words"}, settings))
    assert (recipe.model.revision, recipe.ratio, recipe.method) == ("v1", 0.3, "slope")
    assert (recipe.drift.perplexity, recipe.drift.kl) == (0.02, 0.1)
    assert (recipe.ratios, recipe.options.seed, recipe.options.tied) == ([0.1, 0.2], 3, "untie")
    assert (recipe.drift.group_gap, recipe.group_field) == (0.05, "kind")
    assert recipe.publish_as == "team/slim"
    assert recipe.labels == {"team": "x"}
    assert recipe.webhook is not None
    assert (recipe.webhook.url, recipe.webhook.secret) == ("https://ci.example.org/hook", None)
    prose, code = recipe.evaluation
    assert prose.drift is not None
    assert (prose.name, prose.corpus, prose.drift.perplexity) == ("prose", CORPUS, 0.05)
    assert (code.name, code.drift) == ("code", None)


def test_whatever_a_recipe_has_can_be_asked_for() -> None:
    settings = JobSettings(
        ratio=0.3,
        budget={"kl": 0.004},
        method="slope",
        max_drift=0.02,
        kl_budget=0.1,
        min_top1=0.9,
        max_rare_drift=0.1,
        group_gap=0.05,
        publish="team/slim",
        ratios=[0.1],
        evaluation=[Evaluation("prose", CORPUS)],
        options={"seed": 3},
        labels={"team": "x"},
        webhook="https://ci.example.org/hook",
    )
    body = compress_body("acme/tiny", CORPUS, settings)
    assert set(body) == set(CompressRecipe.model_fields)
    assert set(body["drift"]) == set(CalibratedDriftBudget.model_fields)


def test_a_webhook_can_be_given_with_its_secret_and_events() -> None:
    given = {"url": "https://ci.example.org/hook", "secret": "whsec_" + "A" * 32, "events": ["job.failed"]}
    recipe = CompressRecipe.model_validate(compress_body("acme/tiny", CORPUS, JobSettings(webhook=given)))
    assert recipe.webhook is not None
    assert (recipe.webhook.secret, recipe.webhook.events) == (given["secret"], given["events"])


def test_infinity_bounds_nothing_and_what_is_left_out_has_the_servers_bound() -> None:
    body = compress_body("acme/tiny", CORPUS, JobSettings(kl_budget=math.inf, min_top1=0.98, max_rare_drift=0.05))
    assert body["drift"] == {"kl": None, "top1": 0.98, "rare_perplexity": 0.05}
    budget = CompressRecipe.model_validate(body).drift
    assert (budget.perplexity, budget.kl, budget.top1, budget.rare_perplexity) == (0.01, None, 0.98, 0.05)


def test_a_setting_that_is_none_is_not_sent() -> None:
    body = compress_body(
        "acme/tiny", CORPUS, JobSettings(revision=None, method=None, max_drift=None, kl_budget=None, webhook=None)
    )
    assert set(body) == {"kind", "model", "ratio", "corpus"}
