"""How a model is cut into stages, and what its sections compute."""

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leptonai.errors import InvalidRequest
from leptonai.training import Plan, Trainer
from leptonai.training.models import GPT, TransformerEncoder
from leptonai.training.sections import Section, divided, sections_of, stages_of


@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(1, 7))
def test_stages_follow_each_other_and_the_largest_is_as_small_as_can_be(sizes, parts):
    parts = min(parts, len(sizes))
    found = divided(sizes, parts)
    assert [at for part in found for at in part] == [*range(len(sizes))]
    assert len(found) == parts
    assert all(found)
    sums = [0, *accumulate(sizes)]
    best = min(
        max(sums[end] - sums[start] for start, end in pairwise([0, *cuts, len(sizes)]))
        for cuts in _cuts(len(sizes), parts - 1)
    )
    assert max(sum(sizes[at] for at in part) for part in found) == best


def _cuts(length, many, after=0):
    if not many:
        return [[]]
    return [[at, *rest] for at in range(after + 1, length) for rest in _cuts(length, many - 1, at)]


def test_what_has_no_weights_is_no_stage_of_its_own():
    assert divided([0, 5, 0, 0, 5, 0], 2) == [range(4), range(4, 6)]


TOKENS = torch.randint(1, 17, (3, 8), generator=torch.Generator().manual_seed(0))
MODELS = {
    "tied": lambda: GPT(17, width=16, context=8, layers=2, heads=4),
    "untied": lambda: GPT(17, width=16, context=8, layers=2, positions="learned", tied=False),
    "hidden tokens": lambda: TransformerEncoder(17, width=16, layers=2),
    "classes": lambda: TransformerEncoder(17, 3, width=16, layers=2, positions="learned"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_models_sections_compute_what_the_model_does(name):
    model = MODELS[name]().eval()
    sections = sections_of(model.plan().pipeline)
    assert len(stages_of(model, sections, 4)) == 4  # and they use every weight
    found = None
    for section in sections:
        found = section.run(found, TOKENS)
    assert torch.equal(found, model(TOKENS))


class Forked(nn.Module):
    def __init__(self, *pipeline):
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.pipeline = pipeline

    def plan(self):
        return Plan(pipeline=[getattr(self, name) for name in self.pipeline])


@pytest.mark.parametrize(
    ("pipeline", "ranks", "message"),
    [
        ((), 2, "Forked does not say how it is cut into stages"),
        (("one",), 1, "no section of Forked's pipeline uses two.weight, two.bias"),
        (("one", "two"), 3, "Forked has 2 sections that learn, too few for 3 workers"),
    ],
)
def test_a_model_that_cannot_be_cut_so_is_told(pipeline, ranks, message):
    model = Forked(*pipeline)
    with pytest.raises(InvalidRequest, match=message) as caught:
        stages_of(model, sections_of(model.plan().pipeline), ranks)
    assert caught.value.hint


def test_a_section_may_use_a_weight_that_is_in_no_layer():
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(1))
    section = Section(lambda _, inputs: inputs * model.scale, (model.scale,))
    assert stages_of(model, [section], 1) == [range(1)]


def test_a_pipeline_in_fp16_is_refused():
    with pytest.raises(InvalidRequest, match="fp16"):
        Trainer(nn.Linear(1, 1), None, strategy="pipeline", precision="fp16")
