"""Settings from the environment (`HEADROOM_*`) and from files. Read in `main` of each process, never on import."""

import os
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.foundation.logs import LogFormat
from service.foundation.secret_files import read_secret_files

PREFIX = "HEADROOM_"

Secret = Annotated[str, Field(repr=False)]  # or an address that may hold one


class Settings(BaseSettings):
    """Everything an operator can set. Paths default to places below `data_dir`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    data_dir: Path = Path(".headroom")
    models_dir: Path | None = None  # local models are models_dir/<ns>/<name>
    follow_model_links: bool = False  # local models may be links to other places
    database_url: Secret = ""  # SQLAlchemy URL; empty: SQLite in data_dir
    database_password: Secret = ""  # put into it
    broker_url: Secret = "redis://127.0.0.1:6379/0"
    hub_endpoint: str = "https://huggingface.co"  # empty: local models only
    hub_token: Secret = ""

    storage_url: str = ""  # s3://bucket/prefix for artifacts and corpora; empty: data_dir
    storage_redirect: bool = False  # downloads are sent on to the object store by a signed link
    storage_link_seconds: Annotated[float, Field(gt=0, le=604_800)] = 900.0  # how long such a link works
    storage_public_endpoint: str = ""  # where clients reach the object store; empty: where this process does

    log_format: LogFormat = "text"  # json: one object a line, with request, job and attempt

    auth: Literal["auto", "open", "keys"] = "auto"  # auto: open on a loopback address, keys elsewhere

    # of each owner, where keys are asked for
    rate_limit: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,8}/(second|minute|hour))?$")] = "1200/minute"  # requests
    max_owner_jobs: Annotated[int, Field(ge=0)] = 100  # that have not ended; 0: any number
    max_owner_bytes: Annotated[int, Field(ge=0)] = 0  # files of jobs and corpora; 0: any number

    max_body_bytes: int = 4_000_000  # JSON bodies
    max_corpus_bytes: int = 256_000_000  # decoded
    max_model_bytes: int = 50_000_000_000  # one fetched model

    webhook_networks: str = ""  # as 10.0.0.0/8,fd00::/8: may be told by webhook, also without TLS

    lease_seconds: float = 30.0
    heartbeat_seconds: float = 2.0  # also how soon a cancellation is noticed
    max_attempts: int = 3
    retry_pause_seconds: float = 2.0  # doubles with each attempt
    cancel_grace_seconds: float = 5.0  # between TERM and KILL
    drain_seconds: Annotated[float, Field(ge=0)] = 0.0  # what a process told to stop first goes on with
    sweep_seconds: float = 1.0
    keep_artifacts_days: Annotated[float, Field(ge=0)] = 0.0  # published files, after the end of their job; 0: for ever
    keep_reports_days: Annotated[float, Field(ge=0)] = 0.0  # the same of reports
    keep_corpora_days: Annotated[float, Field(ge=0)] = 0.0  # corpora that no job read meanwhile; 0: for ever
    keep_audit_days: Annotated[float, Field(ge=0)] = 0.0  # entries of the audit log; 0: for ever
    max_hidden_cache_bytes: Annotated[int, Field(ge=0)] = 100_000_000_000  # on each worker; 0: no limit
    max_model_cache_bytes: Annotated[int, Field(ge=0)] = 200_000_000_000  # fetched models, on each worker; 0: no limit
    resend_after_seconds: float = 60.0  # a sent but unclaimed message is sent again
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    memory_bytes: Annotated[int, Field(ge=0)] = 0  # of the device, for a job; 0: what is free when it starts
    threads: int = 0  # torch threads of a job; 0: all cores
    preload: bool = True  # a worker keeps a process with torch loaded, from which jobs are forked (Linux)

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        variables = {f"{PREFIX}{name.upper()}": name for name in cls.model_fields}
        found = read_secret_files(variables, os.environ)
        return {variables[name]: value for name, value in found.items()} | values

    @field_validator("broker_url")
    @classmethod
    def _refuse_redis_cluster(cls, value: str) -> str:
        if "cluster" in value.split(":", 1)[0]:
            raise ValueError("Redis Cluster cannot carry Celery queues; use a single Redis or Valkey")
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in filter(None, value.split(",")):
            ip_network(network.strip())
        return value

    @property
    def allowed_networks(self) -> list[IPv4Network | IPv6Network]:
        return [ip_network(network.strip()) for network in self.webhook_networks.split(",") if network]

    @field_validator("storage_url")
    @classmethod
    def _refuse_other_stores(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc):
            raise ValueError(
                "write s3://bucket or s3://bucket/prefix; address and credentials come from AWS_* variables"
            )
        return value

    @property
    def database(self) -> str:
        if not self.database_url:
            # Any folder name: '%', '?' and '#' mean something in an address.
            return f"sqlite:///{quote(str(self.data_dir.resolve() / 'headroom.db'))}"
        if not self.database_password:
            return self.database_url
        scheme, _, rest = self.database_url.partition("://")
        user, _, place = rest.rpartition("@")
        return f"{scheme}://{user.split(':')[0]}:{quote(self.database_password, safe=' ')}@{place}"

    @property
    def artifacts_dir(self) -> Path:
        return self.data_dir / "artifacts"

    @property
    def corpora_dir(self) -> Path:
        return self.data_dir / "corpora"

    @property
    def shards_dir(self) -> Path:
        return self.data_dir / "shards"

    @property
    def local_models_dir(self) -> Path:
        return self.models_dir or self.data_dir / "models"

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "cache"

    @property
    def hidden_states_dir(self) -> Path:
        return self.cache_dir / "hidden_states"

    @property
    def hub_cache_dir(self) -> Path:
        return self.cache_dir / "hub"

    @property
    def corpus_copies_dir(self) -> Path:
        return self.cache_dir / "corpora"
