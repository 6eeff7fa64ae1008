"""Signing in to a server that asks for keys, and what its pages show to whom, in a real browser."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from api.dependencies import Services
from service.records.callers import Key, Scope, digest_of, new_secret
from tests import chromium
from tests.factories import add_job, make_recipe, write_model_files
from tests.hub_server import HubServer, make_services

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium.find_chromium()
    if program is None:
        pytest.skip("no Chromium: install it, or run as root on Debian")
    with chromium.started(program) as found:
        yield found


@pytest.fixture
def services(tmp_path: Path) -> Services:
    write_model_files(tmp_path / "models/acme/tiny")
    return replace(make_services(tmp_path), is_open=False)


def key(services: Services, owner: str, *scopes: Scope) -> str:
    key_id, secret = new_secret()
    services.keys.add(Key(key_id, "test", owner, frozenset(scopes), services.clock()), digest_of(secret))
    return secret


@pytest.fixture
def page(browser: Browser, services: Services) -> Iterator[Page]:
    with HubServer(services) as server:
        context = browser.new_context(base_url=server.url.removesuffix("/hub"))
        yield context.new_page()
        context.close()


def sign_in(page: Page, secret: str) -> None:
    page.get_by_label("Key").fill(secret)
    page.get_by_role("button", name="Sign in").click()


def test_a_page_leads_to_the_sign_in_and_back_and_signing_out_ends_it(page: Page, services: Services) -> None:
    mine = add_job(services.store, owner="ada", recipe=make_recipe(labels={"of": "ada"}))
    other = add_job(services.store, owner="bob", recipe=make_recipe(labels={"of": "bob"}))
    page.goto("/?status=queued")
    expect(page).to_have_url(re.compile("/login"))
    sign_in(page, "hr_nonsense")
    expect(page.locator("#e-key")).not_to_be_empty()
    expect(page.get_by_label("Key")).to_be_focused()

    sign_in(page, key(services, "ada", Scope.JOBS_READ, Scope.JOBS_WRITE))

    expect(page).to_have_url(re.compile(r"/\?status=queued$"))
    expect(page.locator("#session")).to_contain_text("ada")
    expect(page.locator("#jobs")).to_contain_text("of=ada")
    expect(page.locator("#jobs li")).to_have_count(1)
    page.goto(f"/jobs/{other.id}")
    expect(page.get_by_role("alert")).to_contain_text("There is no such job")
    page.goto(f"/jobs/{mine.id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#title .pill")).to_have_text("Canceled")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/login"))
    page.goto("/")
    expect(page).to_have_url(re.compile("/login"))


def test_a_key_that_may_not_post_is_told_so_at_the_form(page: Page, services: Services) -> None:
    page.goto("/new")
    sign_in(page, key(services, "ada", Scope.JOBS_READ))
    expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value("acme/tiny")
    page.get_by_label("Paste").check()
    page.get_by_label("Text", exact=True).fill("some words of text")
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#form-alert")).to_contain_text("jobs:write")


def test_the_sign_in_leads_to_no_other_site(page: Page, services: Services) -> None:
    page.goto("/login?next=//evil.example/")
    sign_in(page, key(services, "ada", Scope.JOBS_READ))
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_the_list_moves_when_a_job_does_without_being_asked(page: Page, services: Services) -> None:
    page.goto("/")
    sign_in(page, key(services, "ada", Scope.JOBS_READ))
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.route("**/v1/jobs?*", lambda route: route.abort())  # only the stream is left
    job = add_job(services.store, owner="ada")
    expect(page.locator("#jobs li .pill")).to_have_text("Queued")
    services.store.claim(job.id, "w1", 30.0)
    expect(page.locator("#jobs li .pill")).to_have_text("Running")
