"""How a way is chosen from times: the quickest, where it is clearly quicker than a wide copy."""

import time
from collections.abc import Callable

import pytest
import torch

from headroom.loading.products import product_choice
from headroom.loading.products.product_choice import BYTES_MEASURED, bucket_of, least_seconds, quickest, rows_measured


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"kernel": 0.4, "blocks": 3.0, "copy": 1.0}, "kernel"),
        ({"kernel": 0.95, "blocks": 3.0, "copy": 1.0}, "copy"),
        ({"kernel": 1.5, "blocks": 3.0, "copy": 1.0}, "copy"),
        ({"kernel": 1.5, "blocks": 0.8}, "blocks"),
    ],
)
def test_the_quickest_is_taken_and_a_copy_where_nothing_is_clearly_quicker(
    seconds: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product_choice, "least_seconds", lambda ways: seconds)
    assert quickest(dict.fromkeys(seconds, lambda: None)) == expected


def test_a_single_way_is_not_run() -> None:
    def fail() -> None:
        raise AssertionError

    assert quickest({"blocks": fail}) == "blocks"


def test_each_way_is_run_in_turn_and_a_hopeless_one_once() -> None:
    runs: list[str] = []

    def way(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            runs.append(name)
            time.sleep(seconds)

        return run

    found = least_seconds({"quick": way("quick", 0.01), "near": way("near", 0.011), "slow": way("slow", 0.2)})
    rounds, rest = divmod(len(runs) - 3, 2)
    assert rest == 0
    assert 3 <= rounds <= 6  # of 21 ms, for a tenth of a second
    assert runs == ["quick", "near", "slow"] + rounds * ["quick", "near"]
    assert found["quick"] < found["slow"]


def test_what_is_measured_exceeds_a_cache_and_is_never_more_than_the_head() -> None:
    assert rows_measured(1000, 512, torch.float32) == 1000
    rows = rows_measured(10**6, 640, torch.bfloat16)
    assert BYTES_MEASURED <= rows * 640 * 2 < BYTES_MEASURED + 2048 * 640 * 2


def test_sizes_up_to_a_power_of_two_share_a_choice() -> None:
    assert [bucket_of(size) for size in (1, 2, 3, 4, 5, 64)] == [1, 2, 4, 4, 8, 64]
