"""What the import contracts cannot see of the engine: draws. The contracts themselves are in pyproject.toml."""

from pathlib import Path

ENGINE = Path(__file__).parents[2] / "service/compression"


def test_no_global_random_state_is_used_in_the_engine() -> None:
    """Every draw takes a generator made from a seed."""
    drawing = [line for path in ENGINE.rglob("*.py") for line in path.read_text().splitlines() if "torch.rand" in line]
    assert drawing
    assert [line.strip() for line in drawing if "generator=" not in line] == []


def test_no_room_of_the_product_is_overfull() -> None:
    """A reader should find a file by looking: above some 14 modules, a folder wants rooms."""
    root = ENGINE.parents[1]
    rooms = {
        folder.relative_to(root): len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        for package in ("api", "headroom", "service", "workers")
        for folder in [root / package, *(root / package).rglob("*/")]
        if folder.name != "versions"  # migrations: one a change, in order
    }
    assert {str(folder): modules for folder, modules in rooms.items() if modules > 14} == {}
