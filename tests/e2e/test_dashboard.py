"""The dashboard in a real browser, over a whole embedded service with the small trained model of the examples."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from examples.stdlib_docstrings import docstrings, stdlib_folder, stdlib_modules, write_jsonl
from headroom.local.embedded import EmbeddedServer
from tests import chromium

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
MODEL = "headroom/stdlib-gpt2-4m"
DOCUMENTS = 30
SECONDS = 600_000  # of a job, in milliseconds: the machine may be busy
SHORT = {"options.calibration_tokens": "1024", "options.evaluation_tokens": "1024", "options.window": "64"} | {
    "options.continuations": "0"
}
LONG = {"options.calibration_tokens": "4000000", "options.evaluation_tokens": "4000000", "options.window": "64"}
LIGHT: Literal["light"] = "light"
DARK: Literal["dark"] = "dark"
# One finding of axe is a sentence; those of its rules that are no more than advice are left to people.
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium.find_chromium()
    if program is None:
        pytest.skip("no Chromium: install it, or run as root on Debian")
    with chromium.started(program) as found:
        yield found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model has never seen, as far as a short job reads it."""
    path = tmp_path_factory.mktemp("text") / "held-out.jsonl"
    modules = [module for module in stdlib_modules(stdlib_folder()) if module.part == "held-out"]
    write_jsonl(["\n\n".join(docstrings(module.source())) for module in modules[:DOCUMENTS]], path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEADROOM_HUB_ENDPOINT", "")
        environment.setenv("HEADROOM_HEARTBEAT_SECONDS", "0.5")
        environment.setenv("HEADROOM_THREADS", "1")
        folder = tmp_path_factory.mktemp("data")
        with EmbeddedServer(folder, ROOT / "examples/models", port=0) as started:
            yield started


class Watched:
    """A page, and whatever it complained of: scripts that broke, what its policy refused, addresses beyond its own."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self._asked(request.url, url))

    def _heard(self, message: object) -> None:
        text, kind = str(getattr(message, "text", "")), getattr(message, "type", "")
        # A refused request is what some tests are about. plotly's maps, which no page draws, would style themselves.
        if kind == "error" and "status of 4" not in text and "Applying inline style" not in text:
            self.complaints.append(text)

    def _asked(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.complaints.append(f"asked for {asked}")


@pytest.fixture
def page(browser: Browser, server: EmbeddedServer) -> Iterator[Page]:
    context = browser.new_context(base_url=server.url, color_scheme=LIGHT)
    watched = Watched(context, server.url)
    yield watched.page
    context.close()
    assert watched.complaints == []


def fill_in(page: Page, options: dict[str, str], text: Path | None = None) -> None:
    """The form, as far as every job needs it. The text is uploaded the first time, and chosen after that."""
    page.goto("/new")
    expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value(MODEL)
    if text is not None:
        page.get_by_label("Upload a file").check()
        page.get_by_label("File", exact=True).set_input_files(text)
    page.get_by_text("More options").click()
    for name, value in options.items():
        page.locator(f"[name='{name}']").fill(value)


def test_a_job_is_tried_out_posted_watched_and_its_files_downloaded(page: Page, text: Path, tmp_path: Path) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    expect(page.get_by_text("All parts answer")).to_be_visible()

    fill_in(page, SHORT | {"drift.perplexity": "5", "labels": "team=<b>search</b>"}, text)
    page.get_by_role("button", name="Try it out").click()
    expect(page.locator("#dry-run")).to_contain_text("This would run")
    expect(page.locator("#dry-run")).to_contain_text("8,192 × ")
    page.get_by_role("button", name="Start the job").click()

    expect(page).to_have_url(re.compile("/jobs/job_[0-9a-f]{32}$"))
    expect(page.get_by_role("progressbar", name="Progress of the job")).to_be_visible()
    expect(page.locator("#state")).to_contain_text("Succeeded.", timeout=SECONDS)
    expect(page.get_by_text("inside the budget of 5 %")).to_be_visible()
    expect(page.locator("#curve .plot svg.main-svg").first).to_be_visible(timeout=120_000)
    page.get_by_text("The curve as a table").click()
    assert page.locator("#curve tbody tr").count() >= 19
    expect(page.locator("#curve tr.chosen")).to_have_count(1)
    expect(page.locator("#sizes")).to_contain_text("before")

    row = page.get_by_role("row", name=re.compile("model.safetensors"))
    with page.expect_download() as download:
        row.get_by_role("link").click()
    path = tmp_path / "model.safetensors"
    download.value.save_as(path)
    digest = row.locator("code").get_attribute("title")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest

    page.goto("/")
    listed = page.locator("#jobs li").first
    expect(listed).to_contain_text("Succeeded")
    expect(listed).to_contain_text("team=<b>search</b>")  # as text, not as HTML
    assert page.locator("#jobs b b, #jobs .label b").count() == 0
    page.get_by_label("Status").select_option("failed")
    expect(page.get_by_role("heading", name="No job matches these filters")).to_be_visible()
    page.goto("/models")
    expect(page.get_by_role("link", name=re.compile("Job and files"))).to_be_visible()


def test_a_rejected_job_says_why_and_offers_the_ratio_that_would_have_passed(page: Page) -> None:
    fill_in(page, SHORT | {"drift.perplexity": "3"})
    page.get_by_label("A fixed share").check()
    page.get_by_label(re.compile("Share of the head's columns")).fill("97")
    page.get_by_role("button", name="Start the job").click()

    state = page.locator("#state")
    expect(state).to_contain_text("Rejected by the drift gate.", timeout=SECONDS)
    expect(state).to_contain_text(re.compile("The perplexity may grow by .* %.*; the budget is 3 %"))
    expect(state).to_contain_text(re.compile("largest ratio that would have passed is [0-9.]+ %"))
    assert page.locator("#files").inner_text() == ""
    page.get_by_role("link", name=re.compile("Try again with")).click()
    asked = float(page.get_by_label(re.compile("Share of the head's columns")).input_value())
    assert 0 < asked < 97
    expect(page.locator("[name='options.window']")).to_have_value("64")


def test_a_running_job_is_canceled(page: Page) -> None:
    fill_in(page, LONG)
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#title .pill")).to_have_text("Running", timeout=SECONDS)

    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it running").click()
    expect(page.locator("#title .pill")).to_have_text("Running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()

    expect(page.locator("#title .pill")).to_have_text("Canceled", timeout=120_000)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)


def test_mistakes_are_told_beside_their_fields_and_take_the_focus(page: Page) -> None:
    page.goto("/new")
    model = page.get_by_role("combobox", name="Model", exact=True)
    expect(model).to_have_value(MODEL)
    page.get_by_label("Paste").check()
    page.get_by_label("Text", exact=True).fill("words " * 2000)

    model.fill("no-slash")
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#e-model")).to_have_text("Write it as namespace/name.")
    expect(model).to_be_focused()
    expect(model).to_have_attribute("aria-invalid", "true")

    model.fill("acme/nothing")
    page.get_by_role("button", name="Try it out").click()
    expect(page.locator("#form-alert")).to_contain_text("There is no such model")
    expect(page.locator("#e-model")).to_contain_text("acme/nothing")
    expect(model).to_be_focused()

    model.fill(MODEL)
    expect(model).not_to_have_attribute("aria-invalid", "true")
    page.get_by_text("More options").click()
    page.locator("[name='publish.repo']").fill("headroom/mine")
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("[id='e-publish.repo']")).to_contain_text("use another namespace")
    assert page.url.endswith("/new")


def test_further_texts_groups_revisions_and_a_webhook_are_asked_for_and_its_secret_is_shown_once(
    page: Page, server: EmbeddedServer, tmp_path: Path
) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text('{"text": "some words of another text", "language": "en"}\n' * 400)
    headers = {"Content-Type": "text/plain"}
    assert httpx.post(
        f"{server.url}/v1/corpora", content="other words " * 900, headers=headers, trust_env=False
    ).is_success
    fill_in(page, LONG | {"options.publish_ratios": "10, 150", "options.shards": "2"}, path)
    page.get_by_text("Further texts to measure on").click()
    add = page.get_by_role("button", name="Add a text")
    for name in ("first", "second", "third"):
        add.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#evaluation fieldset").last.get_by_label("Name")).to_be_focused()
        page.keyboard.type(name)
    page.get_by_role("group", name="Text 2").get_by_role("button", name="Remove").click()
    expect(add).to_be_focused()
    page.get_by_role("group", name="Text 2").get_by_label("Growth of perplexity").fill("3")
    page.get_by_text("Groups of texts").click()
    page.get_by_label("Field that names the group").fill("language")
    page.get_by_label("fisher").check()
    page.get_by_text("Tell an address when it ends").click()
    page.get_by_label("Address").fill("http://127.0.0.1:9/hook")

    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("[id='e-options.publish_ratios']")).to_contain_text("not a share")
    page.get_by_label("Further revisions").fill("10, 50")
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("[id='e-webhook.url'], #form-alert").last).to_contain_text("https")
    page.get_by_label("Address").fill("https://127.0.0.1:9/hook")
    page.get_by_role("button", name="Start the job").click()
    expect(page.locator("#form-alert pre")).to_contain_text("whsec_")
    page.get_by_role("link", name="To the job").click()

    expect(page).to_have_url(re.compile("/jobs/job_[0-9a-f]{32}$"))
    route = f"{server.url}/v1{page.url.removeprefix(server.url)}"
    job = httpx.get(route, trust_env=False).json()
    assert [(one["name"], (one["drift"] or {}).get("perplexity")) for one in job["evaluation"]] == [
        ("first", None),
        ("third", 0.03),
    ]
    assert job["options"]["publish_ratios"] == [0.1, 0.5]
    assert job["options"]["shards"] == 2
    assert job["options"]["group_field"] == "language"
    assert job["options"]["compare"] == ["fisher"]
    assert job["webhook"]["url"] == "https://127.0.0.1:9/hook"
    httpx.post(f"{route}/cancel", trust_env=False)

    page.goto(f"/new?from={job['id']}")
    expect(page.get_by_role("group", name="Text 2").get_by_label("Name")).to_have_value("third")
    expect(page.get_by_role("group", name="Text 2").get_by_label("Growth of perplexity")).to_have_value("3")
    expect(page.get_by_label("Further revisions")).to_have_value("10, 50")


def test_a_text_is_uploaded_listed_and_deleted(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("some words of text " * 100)
    page.goto("/models")
    page.get_by_label("File", exact=True).set_input_files(path)
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#upload")).to_contain_text("Stored as corpus_")
    rows = page.locator("#corpora tbody tr")
    stored = rows.filter(has_text="1.9 kB")
    expect(stored).to_have_count(1)
    page.on("dialog", lambda dialog: dialog.accept())
    stored.get_by_role("button", name=re.compile("Delete")).click()
    expect(stored).to_have_count(0)


def test_a_page_whose_job_is_not_there_says_so(page: Page) -> None:
    page.goto("/jobs/job_" + "0" * 32)
    expect(page.get_by_role("alert")).to_contain_text("There is no such job")


def test_pages_pass_the_rules_of_axe_by_day_and_by_night_and_fit_a_phone(page: Page, server: EmbeddedServer) -> None:
    from axe_playwright_python.sync_playwright import Axe

    jobs = httpx.get(f"{server.url}/v1/jobs?status=succeeded", trust_env=False).json()["data"]
    assert jobs, "an earlier test of this file ran a job to its end"
    for path in ("/", "/new", "/models", "/jobs/" + jobs[0]["id"]):
        page.set_viewport_size({"width": 1280, "height": 900})
        page.emulate_media(color_scheme=DARK)
        page.goto(path)
        expect(page.get_by_text("All parts answer")).to_be_visible()
        for scheme in DARK, LIGHT:
            page.emulate_media(color_scheme=scheme)
            if "jobs" in path:  # plots take the colours of the page, and again when these change
                ink = page.evaluate("getComputedStyle(document.body).color")
                expect(page.locator("#curve .plot .xtick text").first).to_have_css("fill", ink, timeout=120_000)
            found = Axe().run(page, options={"runOnly": {"type": "tag", "values": AXE_TAGS}})
            told = [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found.response["violations"]]
            assert told == [], (path, scheme)
        page.set_viewport_size({"width": 360, "height": 740})
        for _ in range(40):  # plots follow the size of their page; the policy allows no waiting inside it
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            if wide <= 0:
                break
            page.wait_for_timeout(250)
        assert wide <= 0, path
