"""`python -m tests.openapi_document`: write docs/openapi.json anew, as the server has it at /openapi.json."""

import json
import tempfile
from pathlib import Path

from api.app import create_app
from tests.hub_server import make_services

PATH = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"


def openapi_text() -> str:
    with tempfile.TemporaryDirectory() as folder:
        document = create_app(make_services(Path(folder))).openapi()
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(openapi_text(), encoding="utf-8")
