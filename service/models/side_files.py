"""Which files beside the weights belong to a model, by their names alone: configuration, templates, vocabularies.

What a tokenizer really reads is found by asking it (service/compression/states/tokenizer_files.py). Here is what can be
known without loading anything: what is not fetched from a hub, and what is copied beside the tokenizer's own files.
"""

from pathlib import PurePosixPath

from headroom.contract.file_names import is_safe_path

SIDE_FILE_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken"}
TEMPLATES_FOLDER = "additional_chat_templates"  # the one folder that tokenizers read
# Code, weights of other kinds, archives, data, pictures, and what is for people to read.
OTHER_SUFFIXES = frozenset(
    ".c .cc .cpp .cu .dll .dylib .exe .ipynb .jar .js .pl .ps1 .py .pyc .rb .rs .sh .so .ts .wasm "
    ".bin .ckpt .engine .ggml .gguf .h5 .keras .llamafile .mlmodel .msgpack .nemo .npy .npz .onnx .onnx_data .ot .pb "
    ".pickle .pkl .pt .pth .ptl .tflite "
    ".7z .arrow .bz2 .csv .gz .jsonl .log .parquet .rar .tar .tgz .tsv .xz .zip .zst "
    ".avif .bmp .gif .htm .html .jpeg .jpg .md .mp3 .mp4 .pdf .png .svg .wav .webm .webp".split()
)


def is_side_file(name: str) -> bool:
    """Whether a file of the top folder is copied, also one that only another release of transformers reads."""
    return PurePosixPath(name).suffix in SIDE_FILE_SUFFIXES and is_safe_path(name)
