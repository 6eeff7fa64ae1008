"""A job's page in a real browser, while shards of the job are lost: over stores in memory, without any worker."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from headroom.contract.answers.job import JobError, Status
from service.foundation.errors import OutOfMemory
from service.records.shards import EncodeQuestion, GivenBack
from tests import chromium
from tests.factories import add_running_job, make_recipe
from tests.hub_server import HubServer, make_services

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_lost_shard_appears_on_the_open_page_of_its_job_and_stays_when_the_job_has_ended(tmp_path: Path) -> None:
    program = chromium.find_chromium()
    if program is None:
        pytest.skip("no Chromium: install it, or run as root on Debian")
    services = make_services(tmp_path)
    store = services.store
    job = add_running_job(store, recipe=make_recipe(options={"shards": 2}))
    store.shards.ask(job.id, 1, EncodeQuestion(windows="w", shards=2, model="m", revision=None), 2)
    first, second = store.shards.of(job.id)
    with HubServer(services) as server, chromium.started(program) as browser:
        page = browser.new_page(base_url=server.url.removesuffix("/hub"))
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"/jobs/{job.id}")
        expect(page.get_by_role("heading", name="Attempts")).to_be_visible()
        expect(page.get_by_role("heading", name="Lost shards")).to_have_count(0)

        store.shards.claim(first, "host:7", 30.0)
        store.shards.release(job.id, "host:7", "its process was killed by SIGKILL")
        lost = page.get_by_role("group", name="Lost shards").locator("tbody tr")
        expect(lost).to_contain_text(["1 of 2"])
        expect(lost).to_contain_text(["lost: its process was killed by SIGKILL"])

        taken = store.shards.claim(second, "<b>host</b>:8", 30.0)
        assert taken is not None
        store.shards.give_back(taken, GivenBack.FAILED, OutOfMemory("too little memory"))
        expect(lost).to_have_count(2)
        expect(lost.last).to_contain_text("<b>host</b>:8")
        expect(lost.last).to_contain_text("failed: too little memory")

        store.finish(job.id, 1, Status.FAILED, None, JobError("out_of_memory", "too little memory"))
        expect(page.locator("#state")).to_contain_text("Failed")
        page.reload()
        expect(lost).to_have_count(2)
        assert complaints == []
