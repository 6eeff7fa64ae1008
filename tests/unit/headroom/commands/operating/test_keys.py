"""`headroom keys` on a real database, and what every command does on a server that asks for a key."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from api.dependencies import Services
from headroom import cli
from headroom.client.client import Client
from headroom.errors import HeadroomError
from service.access.authentication import Authentication
from service.adapters.migrate import upgrade
from service.adapters.sql.audit import SqlAudit
from service.adapters.sql.database import Database
from service.adapters.sql.keys import SqlKeys
from service.foundation.errors import Unauthenticated
from service.records.audit import AuditFilter
from service.records.callers import Key, Scope, digest_of, new_secret

Output = pytest.CaptureFixture[str]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlKeys:
    monkeypatch.setenv("HEADROOM_DATA_DIR", str(tmp_path))
    upgrade(f"sqlite:///{tmp_path}/headroom.db")
    return SqlKeys(Database(f"sqlite:///{tmp_path}/headroom.db"), now)


def test_a_key_is_made_shown_once_listed_and_revoked(keys: SqlKeys, capsys: Output) -> None:
    assert cli.run(["keys", "create", "nightly", "--owner", "team-a"]) == 0
    secret = capsys.readouterr().out.strip()
    assert re.fullmatch(r"hr_[0-9a-f]{16}_[\w-]{43}", secret)
    caller = Authentication(keys, now).by_key(secret)
    assert (caller.owner, caller.scopes) == ("team-a", frozenset(Scope) - {Scope.ADMIN})

    assert cli.run(["keys", "list", "--json"]) == 0
    listed = capsys.readouterr().out
    (key,) = json.loads(listed)["data"]
    assert (key["name"], key["valid"], key["expires"]) == ("nightly", True, None)
    assert secret not in listed
    assert digest_of(secret) not in listed

    assert cli.run(["keys", "revoke", key["id"]]) == 0
    assert "is revoked" in capsys.readouterr().out
    with pytest.raises(Unauthenticated):
        Authentication(keys, now).by_key(secret)
    done = SqlAudit(keys._database).page(AuditFilter(), 10, None).entries
    told = [("key.revoke", key["id"], "command line"), ("key.create", key["id"], "command line")]
    assert [(entry.action, entry.object, entry.address) for entry in done] == told


def test_scopes_and_expiry_are_as_asked(keys: SqlKeys, capsys: Output) -> None:
    arguments = ["--scope", "jobs:read", "--scope", "artifacts:read", "--expires-in", "90d", "--json"]
    assert cli.run(["keys", "create", "reader", "--owner", "x", *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["scopes"] == ["artifacts:read", "jobs:read"]
    lasts = datetime.fromisoformat(made["expires"]) - now()
    assert timedelta(days=89, hours=23) < lasts <= timedelta(days=90)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["create", "x", "--owner", "Team A"], "usage", "an owner is"),
        (["create", "x", "--owner", "a", "--scope", "all"], "usage", "jobs:read"),
        (["create", "x", "--owner", "a", "--expires-in", "soon"], "usage", "12h or 90d"),
        (["create", "--owner", "a"], "usage", "NAME"),
        (["revoke", "key_0000000000000000"], "key_not_found", "headroom keys list"),
        (["revoke", "--owner"], "usage", "--owner"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    keys: SqlKeys, capsys: Output, arguments: list[str], code: str, part: str
) -> None:
    assert cli.run(["keys", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error [{code}]")
    assert part in error
    assert keys.all() == []


def test_a_database_without_its_schema_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    assert cli.run(["keys", "list", "--data-dir", str(tmp_path), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "store_unavailable"
    assert "service.adapters.migrate" in error["message"]


class TestOnAServerThatAsksForAKey:
    @pytest.fixture
    def services(self, services: Services) -> Services:
        return replace(services, is_open=False)

    @pytest.fixture
    def secret(self, services: Services) -> str:
        key_id, secret = new_secret()
        services.keys.add(Key(key_id, "test", "team-a", frozenset({Scope.JOBS_READ}), now()), digest_of(secret))
        return secret

    def test_the_key_comes_from_the_environment_or_a_file(
        self, server: str, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
    ) -> None:
        monkeypatch.setenv("HEADROOM_SERVER", server)
        assert cli.run(["jobs"]) == 2
        assert capsys.readouterr().err.startswith("error [unauthenticated]")

        (tmp_path / "key").write_text(secret + "\n")
        assert cli.run(["jobs", "--key", f"@{tmp_path}/key"]) == 0
        monkeypatch.setenv("HEADROOM_KEY", f"@{tmp_path}/key")
        assert cli.run(["corpora"]) == 0
        monkeypatch.setenv("HEADROOM_KEY", secret)
        assert cli.run(["models"]) == 0
        (tmp_path / "text.txt").write_text("words")
        assert cli.run(["compress", "acme/tiny", "--corpus", str(tmp_path / "text.txt"), "--server", server]) == 2
        output = capsys.readouterr()
        assert "error [forbidden]" in output.err
        assert "jobs:write" in output.err
        assert secret not in output.out + output.err

    def test_the_client_takes_the_key_it_is_given(
        self, server: str, secret: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HEADROOM_KEY", "hr_another")
        with Client(server, secret) as client:
            assert list(client.jobs()) == []
        with Client(server) as client, pytest.raises(HeadroomError) as raised:
            list(client.jobs())
        assert (raised.value.code, raised.value.status) == ("unauthenticated", 401)

    def test_an_admin_reads_the_audit_log(self, server: str, services: Services, secret: str, capsys: Output) -> None:
        key_id, admin = new_secret()
        services.keys.add(Key(key_id, "root", "root", frozenset({Scope.ADMIN}), now()), digest_of(admin))
        with Client(server, admin) as client, pytest.raises(HeadroomError):
            client.compress("acme/gone", text="words")
        assert cli.run(["audit", "--server", server, "--key", admin, "--action", "job.post"]) == 0
        assert "model_not_found" in capsys.readouterr().out
        assert cli.run(["audit", "--server", server, "--key", admin, "--owner", "nobody"]) == 0
        assert capsys.readouterr().out == "No entries.\n"
        assert cli.run(["audit", "--server", server, "--key", secret, "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "forbidden"

    @pytest.mark.parametrize("value", ["@/no/such/file", "two words", "tab\tin it", "ö"])
    def test_a_key_that_cannot_be_one_is_not_sent(self, server: str, value: str) -> None:
        with pytest.raises(HeadroomError, match="key") as raised:
            Client(server, value)
        assert raised.value.code == "invalid_argument"
