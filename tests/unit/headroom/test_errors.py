"""Which failures are the caller's to mend."""

from headroom.errors import BAD_INPUT_CODES, HeadroomError, ServerUnreachable
from service.foundation.errors import AccessError, ServiceError, UserError

# Of what is there already: the caller has to ask for another, however often it tries.
TAKEN = {"idempotency_key_reused", "key_not_found", "repository_taken"}


def codes_below(error: type[ServiceError]) -> set[str]:
    return {code for child in error.__subclasses__() for code in {child.code} | codes_below(child)}


def test_every_user_error_of_the_service_counts_as_bad_input() -> None:
    waits = {"rate_limited"}  # and passes by itself
    refused = codes_below(UserError) | codes_below(AccessError) - waits | TAKEN
    assert refused | {"invalid_argument"} == BAD_INPUT_CODES


def test_a_refused_field_is_bad_input_and_a_broken_server_is_not() -> None:
    assert HeadroomError("no", "invalid_request", status=422).is_bad_input
    assert not HeadroomError("no", "store_unavailable", status=503).is_bad_input
    assert not HeadroomError("no", "job_finished", status=409).is_bad_input
    assert not ServerUnreachable("no").is_bad_input
