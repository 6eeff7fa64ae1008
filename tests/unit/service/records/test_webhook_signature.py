"""The signature of a delivery is what the Standard Webhooks specification says it is, computed here by hand."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

from headroom.contract.webhook import Webhook
from service.records.webhooks import Delivery, signed_headers

KEY = bytes(range(32))


def test_the_signature_is_an_hmac_of_id_time_and_body_by_the_decoded_secret() -> None:
    webhook = Webhook(url="https://a.example/hook", secret="whsec_" + base64.b64encode(KEY).decode())
    sent = datetime(2026, 1, 31, 12, 0, 30, 900_000, tzinfo=UTC)
    payload = '{"type": "job.succeeded", "text": "ö"}'
    delivery = Delivery("job_1", 1, "msg_abc", "job.succeeded", payload, sent)

    headers = signed_headers(delivery, webhook, sent)

    time = str(int(sent.timestamp()))
    signed = hmac.new(KEY, f"msg_abc.{time}.{payload}".encode(), hashlib.sha256).digest()
    assert headers["webhook-timestamp"] == time
    assert headers["webhook-signature"] == "v1," + base64.b64encode(signed).decode()
