"""Errors cross the wire as data and come back as what they were."""

import pytest

from leptonai import errors
from leptonai.errors import LeptonError, from_wire


def kinds(kind: type[LeptonError] = LeptonError) -> list[type[LeptonError]]:
    """Those that everybody knows; a part may have some of its own below them."""
    ours = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [below for child in ours for below in (child, *kinds(child))]


def facts(error: LeptonError) -> tuple[type, str, str]:
    return type(error), error.message, error.hint


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_comes_back_from_the_wire_as_itself(kind):
    sent = kind("the disk is full", hint="make room")
    assert facts(from_wire(kind.status, sent.wire())) == facts(sent)


def test_no_two_kinds_of_error_share_a_code():
    codes = [kind.code for kind in kinds()]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_the_same_request_may_be_sent_again_only_where_waiting_or_reading_again_helps(kind):
    assert kind.retry == issubclass(kind, errors.TryLater | errors.VersionConflict)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.RequestError),
        (401, errors.Unauthenticated),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.TooLarge),
        (422, errors.Unsatisfiable),
        (429, errors.TooManyRequests),
        (503, errors.TryLater),
        (507, errors.StorageFull),
        (500, errors.Internal),
        (502, errors.Internal),  # a proxy's, say: none of ours has it
        (418, errors.Internal),
    ],
)
def test_an_answer_with_an_unknown_code_is_read_by_its_status(status, kind):
    body = {"code": "FromTheFuture", "message": "no", "hint": "ask again"}
    assert facts(from_wire(status, body)) == (kind, "no", "ask again")


@pytest.mark.parametrize("body", [None, "<html>", [], 7, {}, {"message": None, "hint": None}])
def test_an_answer_that_is_no_error_body_still_says_its_status(body):
    assert facts(from_wire(404, body)) == (
        errors.NotFound,
        "the server answered with status 404",
        "is this the URL of a Lepton workspace?",
    )


def test_a_code_says_more_than_its_status():
    body = errors.StaleEpoch("another control plane took over").wire()
    assert type(from_wire(500, body)) is errors.StaleEpoch
