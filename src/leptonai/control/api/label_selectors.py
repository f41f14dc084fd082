"""Which resources are wanted by their labels: Kubernetes' selectors, as clients send them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from leptonai.control.api.routing import Parameter
from leptonai.errors import InvalidRequest

MAX_TERMS = 32
SELECTOR = Parameter(
    "query", about="Labels: `k`, `!k`, `k=v`, `k!=v`, `k in (v, w)`, `k notin (v)`, with commas."
)

_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_TERM = re.compile(
    rf"""\s*(?:
        (?P<key>{_KEY})\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)\s*
      | (?P<missing>!)?\s*(?P<name>{_KEY})\s*(?:(?P<operator>!=|==?)(?P<value>[^,]*))?
      |
    )(?:,|$)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class LabelTerm:
    """What one label is to be: one of `values`, there at all (None), or the opposite of that."""

    key: str
    values: frozenset[str] | None = None
    negated: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        there = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return there is not self.negated


def label_terms(text: str) -> list[LabelTerm]:
    """`k`, `!k`, `k=v`, `k!=v`, `k in (v, w)`, `k notin (v, w)`, joined by commas that mean "and".

    Raises:
        InvalidRequest: it is no such selector.
    """
    terms: list[LabelTerm] = []
    at = 0
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None or (found["missing"] and found["operator"]):
            raise InvalidRequest(
                f"the parameter query: {text[at : at + 100]!r} is no label selector",
                hint="For example team=vision,tier!=test,stage in (train, tune),!draft.",
            )
        at = found.end()
        if found["set"]:
            values = frozenset(value.strip() for value in found["values"].split(","))
            terms.append(LabelTerm(found["key"], values, negated=found["set"] == "notin"))
        elif found["operator"]:
            one = frozenset({found["value"].strip()})
            terms.append(LabelTerm(found["name"], one, negated=found["operator"] == "!="))
        elif found["name"]:
            terms.append(LabelTerm(found["name"], negated=bool(found["missing"])))
    if len(terms) > MAX_TERMS:
        raise InvalidRequest(
            f"the parameter query has {len(terms)} terms", hint=f"At most {MAX_TERMS}."
        )
    return terms


def label_selector(text: str) -> Callable[[Mapping[str, str]], bool] | None:
    """Whether all terms hold; None selects everything."""
    terms = label_terms(text)
    if not terms:
        return None
    return lambda labels: all(term.holds(labels) for term in terms)
