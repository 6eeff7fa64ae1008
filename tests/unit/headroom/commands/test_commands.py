"""Every command against the real API: what it prints and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.dependencies import Services
from headroom import cli
from headroom.client.client import Client
from headroom.contract.answers.job import Phase, Status
from service.ports.jobs import JobFilter
from service.records.shards import EncodeQuestion
from tests.factories import add_job, make_recipe

Soon = Callable[[Callable[[], None]], None]
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: str, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADROOM_SERVER", server)
    monkeypatch.chdir(tmp_path)


def work_on_the_next_job(services: Services, hand: Any, end: Callable[[str], None]) -> Callable[[], None]:
    """What a worker does once a job is there."""

    def work() -> None:
        deadline = time.monotonic() + 20
        while not services.store.page(JobFilter(), 1, None).jobs:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        job_id = hand.newest()
        hand.start(job_id)
        hand.advance(job_id, Phase.ENCODING, 0.5)
        end(job_id)

    return work


def compress(corpus: Path, *options: str) -> int:
    return cli.run(["compress", "acme/tiny", "--corpus", str(corpus), "--ratio", "0.3", "--output", "out", *options])


def test_a_success_prints_the_table_and_leaves_the_checkpoint(
    corpus: Path, services: Services, hand: Any, soon: Soon, capsys: Output, tmp_path: Path
) -> None:
    soon(work_on_the_next_job(services, hand, hand.succeed))
    assert compress(corpus, "--label", "team=x", "--seed", "7") == 0
    output = capsys.readouterr()
    assert "▶" in output.out
    assert "Succeeded: 30.0 % of the head's columns removed, 12 of 16 kept" in output.out
    assert "Report in      out/report.html" in output.out
    assert f"{hand.newest()} succeeded" in output.err
    assert json.loads((tmp_path / "out/report.json").read_bytes())["method"] == "probability"
    recipe = services.store.get(hand.newest()).recipe
    assert (recipe.labels, recipe.options.seed, recipe.ratio) == ({"team": "x"}, 7, 0.3)


def test_without_an_output_the_folder_is_named_after_the_model(
    corpus: Path, services: Services, hand: Any, soon: Soon, tmp_path: Path
) -> None:
    soon(work_on_the_next_job(services, hand, hand.succeed))
    assert cli.run(["compress", "acme/tiny", "--corpus", str(corpus), "--ratio", "0.3"]) == 0
    assert (tmp_path / "tiny-headroom/headroom.json").is_file()


def test_json_is_one_object_with_the_job_its_report_and_its_files(
    corpus: Path, services: Services, hand: Any, soon: Soon, capsys: Output
) -> None:
    soon(work_on_the_next_job(services, hand, hand.succeed))
    assert compress(corpus, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["status"], printed["output"]) == ("succeeded", "out")
    assert printed["result"]["kept_columns"] == 12
    assert printed["report"]["curve"][0]["ratio"] == 0.3
    assert printed["files"] == ["config.json", "headroom.json", "report.json"]


def test_the_secret_of_a_webhook_is_told_once_the_job_is_posted_and_in_the_json(
    corpus: Path, services: Services, hand: Any, soon: Soon, capsys: Output
) -> None:
    soon(work_on_the_next_job(services, hand, hand.succeed))
    assert compress(corpus, "--webhook", "https://ci.example.org/hook", "--json") == 0
    output = capsys.readouterr()
    webhook = services.store.get(hand.newest()).recipe.webhook
    assert webhook is not None
    assert json.loads(output.out)["webhook"] == webhook.model_dump(mode="json") | {"secret": webhook.secret}
    assert str(webhook.secret) in output.err


def test_a_webhook_without_a_server_is_bad_input(corpus: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADROOM_SERVER")
    assert compress(corpus, "--webhook", "https://ci.example.org/hook") == 2
    assert "--webhook needs --server" in capsys.readouterr().err


def test_a_rejection_is_exit_code_three_and_writes_nothing(
    corpus: Path, services: Services, hand: Any, soon: Soon, capsys: Output, tmp_path: Path
) -> None:
    soon(work_on_the_next_job(services, hand, hand.reject))
    assert compress(corpus) == 3
    output = capsys.readouterr().out
    assert "✗" in output
    assert "the largest ratio that passes is 0.3" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("code", "exit_code"), [("unsupported_head", 2), ("out_of_memory", 1)])
def test_a_failure_is_the_callers_or_the_machines(
    corpus: Path, services: Services, hand: Any, soon: Soon, capsys: Output, code: str, exit_code: int
) -> None:
    soon(work_on_the_next_job(services, hand, lambda job_id: hand.fail(job_id, code)))
    assert compress(corpus, "--json") == exit_code
    output = capsys.readouterr()
    assert json.loads(output.out)["error"]["code"] == code
    assert f"error [{code}]: It cannot be done; do something else.\n" in output.err


def test_a_job_that_somebody_else_cancels_is_exit_code_one(
    corpus: Path, services: Services, hand: Any, soon: Soon, capsys: Output
) -> None:
    def cancel(job_id: str) -> None:
        services.store.request_cancel(job_id)
        services.store.finish(job_id, 1, Status.CANCELED, None, None)

    soon(work_on_the_next_job(services, hand, cancel))
    assert compress(corpus) == 1
    assert "error [canceled]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--ratio", "1.5"], "invalid_request"),
        (["--ratio", "nan"], "invalid_argument"),
        (["--method", "magic"], "invalid_request"),
        (["--window", "0"], "invalid_request"),
        (["--column-multiple", "0"], "invalid_request"),
        (["--publish", "headroom/mine"], "invalid_request"),
    ],
)
def test_what_the_server_refuses_is_exit_code_two(
    corpus: Path, options: list[str], code: str, capsys: Output, client: Client
) -> None:
    assert compress(corpus, *options) == 2
    assert f"error [{code}]: " in capsys.readouterr().err
    assert list(client.jobs()) == []


def test_an_unknown_model_is_exit_code_two(corpus: Path, capsys: Output) -> None:
    assert cli.run(["compress", "acme/missing", "--corpus", str(corpus)]) == 2
    assert "error [model_not_found]" in capsys.readouterr().err


def test_an_empty_corpus_is_exit_code_two(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "empty.txt").touch()
    assert compress(tmp_path / "empty.txt") == 2
    assert "error [corpus_empty]" in capsys.readouterr().err


def test_a_dry_run_prints_the_estimate_and_makes_no_job(corpus: Path, capsys: Output, client: Client) -> None:
    assert compress(corpus, "--ratio", "0.5", "--dry-run") == 0
    assert "32 x 16, untied" in capsys.readouterr().out
    assert compress(corpus, "--ratio", "0.5", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["estimate"]["kept_columns"] == 8
    assert list(client.jobs()) == []


def test_a_json_field_is_named_on_the_command_line(tmp_path: Path, client: Client, capsys: Output) -> None:
    (tmp_path / "c.jsonl").write_text('{"body": "some words"}\n')
    assert compress(tmp_path / "c.jsonl", "--ratio", "0.5", "--field", "body", "--dry-run") == 0
    assert client.corpora()[0].field == "body"
    assert compress(tmp_path / "c.jsonl", "--dry-run") == 2
    assert "error [corpus_not_text]" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_cancels_the_job_and_says_so(
    corpus: Path, services: Services, hand: Any, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "headroom.cli", "compress", "acme/tiny", "--corpus", str(corpus), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    line = ""
    while " queued" not in line:  # by then it follows the job
        line = process.stderr.readline()
        assert line
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["status"] == "canceled"
    assert f"error [interrupted]: {hand.newest()} is canceled." in errors
    assert services.store.get(hand.newest()).status == "canceled"


def test_jobs_are_listed(client: Client, corpus: Path, capsys: Output) -> None:
    assert cli.run(["jobs"]) == 0
    assert capsys.readouterr().out == "No jobs.\n"
    ids = [client.compress("acme/tiny", corpus, ratio=0.5).id for _ in range(3)]
    assert cli.run(["jobs", "--limit", "2"]) == 0
    output = capsys.readouterr().out
    assert [job_id in output for job_id in ids] == [False, True, True]
    assert cli.run(["jobs", "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)["data"]] == ids[::-1]
    assert cli.run(["jobs", "--status", "succeeded", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"data": []}


def test_a_job_is_shown_with_its_table(client: Client, hand: Any, corpus: Path, capsys: Output) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.3)
    assert cli.run(["show", job.id]) == 0
    assert "queued" in capsys.readouterr().out
    hand.start(job.id)
    hand.succeed(job.id)
    assert cli.run(["show", job.id]) == 0
    output = capsys.readouterr().out
    assert "▶" in output
    assert "Read per token  4.00 kB → 3.50 kB  -12.5 %" in output
    assert cli.run(["show", job.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["largest_passing_ratio"] == 0.3


def test_a_job_is_canceled_once_and_not_after_its_end(client: Client, hand: Any, corpus: Path, capsys: Output) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.3)
    assert cli.run(["cancel", job.id]) == 0
    assert capsys.readouterr().out == f"{job.id} is canceled.\n"
    other = client.compress("acme/tiny", corpus, ratio=0.3)
    hand.start(other.id)
    hand.succeed(other.id)
    assert cli.run(["cancel", other.id, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "job_finished"


def test_a_download_leaves_the_files(client: Client, hand: Any, corpus: Path, capsys: Output, tmp_path: Path) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.3)
    assert cli.run(["download", job.id, "--output", "early"]) == 1
    assert "error [file_not_found]" in capsys.readouterr().err
    hand.start(job.id)
    hand.succeed(job.id)
    assert cli.run(["download", job.id, "--output", "told"]) == 0
    assert "told/report.html" in capsys.readouterr().out
    assert cli.run(["download", job.id, "--output", "got", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["got/config.json", "got/headroom.json", "got/report.json"]
    assert (tmp_path / "got/config.json").read_bytes() == b"{}"


def test_an_unknown_job_is_exit_code_two(capsys: Output) -> None:
    for arguments in (["show", "job_1"], ["cancel", "job_1"], ["download", "job_1", "--output", "x"]):
        assert cli.run(arguments) == 2
        assert "error [job_not_found]" in capsys.readouterr().err


def test_models_and_corpora_are_listed(client: Client, corpus: Path, capsys: Output) -> None:
    assert cli.run(["corpora"]) == 0
    assert capsys.readouterr().out == "No corpora.\n"
    uploaded = client.upload_corpus(corpus)
    assert cli.run(["corpora"]) == 0
    assert uploaded.id in capsys.readouterr().out
    assert cli.run(["models", "--json"]) == 0
    local = {"id": "acme/tiny", "kind": "local", "job_id": None, "repository": None}
    assert json.loads(capsys.readouterr().out)["data"] == [local]


def test_config_check_tells_what_is_wrong_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADROOM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HEADROOM_HUB_ENDPOINT", "")
    monkeypatch.setenv("HEADROOM_DATABASE_ULR", "postgresql://nowhere")

    assert cli.run(["config", "check", "--json"]) == 2

    checks = {found["name"]: found["ok"] for found in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["HEADROOM_DATABASE_ULR"] is False
    assert checks["HEADROOM_DATA_DIR"] is True


def test_steer_posts_the_tokens_that_it_was_given(server: str, services: Services, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text to steer on")
    arguments = [
        "steer",
        "acme/tiny",
        "--corpus",
        "text.txt",
        "--token",
        " a=b=0.5",
        "--token-id",
        "7=3",
        "--sparse",
        "4",
    ]
    done = subprocess.Popen([sys.executable, "-m", "headroom.cli", *arguments], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 20
        while not (jobs := services.store.page(JobFilter(kind="steer"), 1, None).jobs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        recipe = jobs[0].recipe.model_dump(include={"tokens", "edit"}, exclude_none=True)
        assert recipe == {
            "tokens": [{"text": " a=b", "multiplier": 0.5}, {"id": 7, "multiplier": 3.0}],
            "edit": {"sparse": 4},
        }
    finally:
        done.send_signal(signal.SIGKILL)
        done.wait()


@pytest.mark.parametrize("token", ["hello", "=5", "a=much"])
def test_a_token_without_a_multiplier_is_bad_input(token: str, capsys: Output) -> None:
    assert cli.run(["steer", "acme/tiny", "--corpus", "text.txt", "--token", token]) == 2
    assert "TOKEN=MULTIPLIER" in capsys.readouterr().err


def test_a_job_that_has_ended_is_deleted_and_one_that_has_not_is_kept(
    client: Client, services: Services, hand: Any, capsys: Output
) -> None:
    job_id = client.compress("acme/tiny", text="some words", ratio=0.3).id
    assert cli.run(["delete", job_id]) == 1
    assert "error [job_not_finished]" in capsys.readouterr().err
    hand.start(job_id)
    hand.succeed(job_id)
    assert cli.run(["delete", job_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": [job_id]}
    assert services.artifacts.files(job_id) == []
    assert cli.run(["show", job_id]) == 2


def test_the_messages_of_a_webhook_are_listed_and_sent_again(services: Services, hand: Any, capsys: Output) -> None:
    recipe = make_recipe(webhook={"url": "https://ci.example.org/hook", "secret": "whsec_" + "A" * 32})
    job = add_job(services.store, recipe=recipe)
    assert cli.run(["webhooks", job.id]) == 0
    assert "No messages" in capsys.readouterr().out

    services.store.request_cancel(job.id)
    assert cli.run(["webhooks", job.id]) == 0
    assert re.search(r"1 +job\.canceled +pending +0", capsys.readouterr().out)
    assert cli.run(["webhooks", job.id, "--replay", "1", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["data"]
    assert sorted((one["number"], one["replay_of"]) for one in listed) == [(1, None), (2, 1)]

    assert cli.run(["webhooks", job.id, "--replay", "9"]) != 0
    assert "delivery_not_found" in capsys.readouterr().err


def test_the_history_of_a_job_tells_in_words_which_shard_was_lost(
    client: Client, corpus: Path, services: Services, hand: Any, capsys: Output
) -> None:
    job = client.compress("acme/tiny", corpus, ratio=0.3, options={"shards": 2})
    hand.start(job.id)
    shards = services.store.shards
    shards.ask(job.id, 1, EncodeQuestion(windows="w", shards=2, model="m", revision=None), 2)
    shards.claim(shards.of(job.id)[1], "host:7", 30.0)
    shards.release(job.id, "host:7", "its process was killed by SIGKILL")
    assert cli.run(["show", job.id, "--events"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "shard shard 2 of 2 (encode) lost at host:7: its process was killed by SIGKILL" in printed
    assert "status status running" in printed
    assert cli.run(["show", job.id, "--events", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"][-1]["data"]["worker"] == "host:7"
    hand.succeed(job.id)
    assert [event.type for event in job.events()][-3:] == ["shard", "attempt", "status"]
