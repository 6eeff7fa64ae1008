"""Pages hold no data, load nothing from elsewhere, and keep their own files for ever."""

import re

import plotly
import pytest
from fastapi.testclient import TestClient

from api.dependencies import Services
from api.routes.pages import ASSETS
from headroom.contract.answers.job import Status
from headroom.contract.report.report import open_report
from service.reports.report_page import figures_of
from tests.factories import add_running_job
from tests.reports import make_report

PAGES = ("/", "/new", "/models", "/login", "/docs", "/jobs/job_0")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_only_use_what_this_server_sends(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "'unsafe-inline'" not in policy.replace("style-src-attr 'unsafe-inline'", "")
    assert not re.findall(r"<script(?![^>]*src=)|<style| on\w+=|javascript:", answer.text)
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', answer.text)
    assert addresses
    assert all(address.startswith(("/", "#")) and not address.startswith("//") for address in addresses)


@pytest.mark.parametrize("path", PAGES)
def test_every_file_that_a_page_names_is_there(client: TestClient, path: str) -> None:
    for address in re.findall(r'"(/assets/[^"]+)"', client.get(path).text):
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"]


def test_every_module_that_a_script_imports_is_there() -> None:
    for path in ASSETS.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert (ASSETS / name).exists(), f"{path.name} imports {name}"


def test_scripts_write_no_html_and_set_no_handlers_from_text() -> None:
    for path in ASSETS.glob("*.js"):
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), path


def test_the_id_in_an_address_reaches_the_page_as_text(client: TestClient) -> None:
    page = client.get("/jobs/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E".replace("%2F", "")).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_script_that_draws_is_the_packages_own_and_sent_compressed(client: TestClient) -> None:
    address = re.findall(r'"(/assets/[0-9a-f]+/)', client.get("/").text)[0] + "plotly.min.js"
    answer = client.get(address, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "plotly.js v" in answer.text[:200]
    assert len(plotly.__version__) > 0


def test_nothing_beside_the_assets_is_sent(client: TestClient) -> None:
    base = re.findall(r'"(/assets/[0-9a-f]+/)', client.get("/").text)[0]
    for name in ("../templates/base.html", "%2e%2e/templates/base.html", "..%2f..%2fapp.py", "nothing.js"):
        assert client.get(base + name).status_code == 404


def test_figures_are_those_of_the_report_page(client: TestClient, services: Services) -> None:
    job = add_running_job(services.store)
    report = make_report({0.25: 0.001, 0.5: 0.002}, 0.5)
    assert client.get(f"/v1/jobs/{job.id}/figures").json()["code"] == "report_not_ready"
    services.store.save_report(job.id, 1, report)
    services.store.finish(job.id, 1, Status.SUCCEEDED, {}, None)
    answer = client.get(f"/v1/jobs/{job.id}/figures").json()
    assert answer == figures_of(open_report(report))
    assert {"drift", "bytes"} <= answer.keys()
