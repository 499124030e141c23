"""Which runs are trained as one stack: those that are equal in all that is not known to be a member's own."""

from dataclasses import dataclass, fields, replace

from tests.reproduce.specs import MLP
from three_factors.reproduce.engine.contract.packs import OF_A_MEMBER, same_stack
from three_factors.reproduce.engine.contract.spec import RunSpec


@dataclass(frozen=True)
class Smoothed(RunSpec):
    """A run that says one thing more than runs do."""

    smoothing: float = 0.0


def test_runs_that_differ_in_a_field_nobody_called_a_members_own_are_no_stack():
    spec = Smoothed(**{field.name: getattr(MLP, field.name) for field in fields(MLP)})
    assert same_stack(spec) == same_stack(replace(spec, seed=1, momentum=0.0))
    assert same_stack(spec) != same_stack(replace(spec, smoothing=0.1))


def test_what_is_a_members_own_are_fields_of_a_run():
    assert {field.name for field in fields(RunSpec)} >= OF_A_MEMBER
