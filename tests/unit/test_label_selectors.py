import pytest

from leptonai.control.api.label_selectors import MAX_TERMS, label_selector
from leptonai.errors import InvalidRequest

LABELS = {"team": "vision", "stage": "train", "a.b/c": "1=2", "empty": ""}


@pytest.mark.parametrize(
    "selector",
    [
        "team",
        "team=vision",
        "team==vision",
        "team = vision , stage",
        "team!=audio",
        "none!=anything",
        "!none",
        "! none",
        "team in (audio, vision)",
        "team notin (audio)",
        "none notin (audio)",
        "stage in (train),team in (vision,audio),!none",
        "a.b/c=1=2",
        "empty=",
        "empty in ()",
        ", ,team,",
    ],
)
def test_what_holds(selector):
    selects = label_selector(selector)
    assert selects is not None
    assert selects(LABELS)


@pytest.mark.parametrize(
    "selector",
    ["none", "team=audio", "team!=vision", "!team", "team in (audio)", "team notin (vision)",
     "none in (vision)", "team,none", "team="],
)  # fmt: skip
def test_what_does_not(selector):
    selects = label_selector(selector)
    assert selects is not None
    assert not selects(LABELS)


@pytest.mark.parametrize("selector", ["", " ", ",", " , "])
def test_what_selects_everything(selector):
    assert label_selector(selector) is None


@pytest.mark.parametrize(
    "selector",
    ["a b", "=v", "a in", "a in (b", "a in b", "!a=b", "a>1", "-a", "(a)", "!", "a,in (b)",
     ",".join(["a"] * (MAX_TERMS + 1))],
)  # fmt: skip
def test_what_is_no_selector_is_refused(selector):
    with pytest.raises(InvalidRequest, match="the parameter query"):
        label_selector(selector)
