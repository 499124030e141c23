"""Weights go into modules whose keys differ, where they fit in one way."""

import pytest
import torch
from torch import nn

from tests.strangers.checkpoints import Wrapping, equal, net
from three_factors.callbacks.functional.weights import aligned


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def within(state, part):
    return {key.replace("2.", f"2.{part}", 1) if key.startswith("2.") else key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "change",
    {
        "as it is": lambda s: s,
        "compiled": lambda s: prefixed(s, "_orig_mod."),
        "compiled part": lambda s: within(s, "_orig_mod."),
        "DDP": lambda s: prefixed(s, "module."),
        "DDP compiled": lambda s: prefixed(s, "module._orig_mod."),
        "compiled DDP": lambda s: prefixed(s, "_orig_mod.module."),
        "Lightning": lambda s: prefixed(s, "network."),
        "averaged": lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},
        "with more": lambda s: prefixed(s, "model.") | {"criterion.weight": torch.ones(2), "extra": torch.ones(1)},
    }.values(),
)
@pytest.mark.parametrize(
    "module",
    {
        "network": net,
        "compiled": lambda: torch.compile(net()),
        "Lightning": lambda: Wrapping(name="network"),
        "Lightning, other name": lambda: Wrapping(name="body"),
        "compiled part": lambda: Wrapping(torch.compile(net())),
    }.values(),
)
def test_keys_with_a_prefix_are_recognised_on_either_side(change, module):
    module = module()
    given = {key: value + 1 if value.is_floating_point() else value for key, value in net().state_dict().items()}
    found = aligned(change(given), module, "start")
    own = module.state_dict()
    assert found.keys() == own.keys()
    for key, value in found.items():
        plain = key.replace("_orig_mod.", "").removeprefix("network.").removeprefix("body.")
        assert torch.equal(value, given[plain])
    module.load_state_dict(found)


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: without(s, "2.bias"), r"start: has no '2\.bias'; the nearest is '[0-2]\.\w+'"),
        (
            lambda s: without(s, "2.bias") | {"2.bais": s["2.bias"]},
            r"start: has no '2\.bias'; the nearest is '2\.bais'",
        ),
        (lambda s: without(s, "2.bias") | {"3.bias": s["2.bias"]}, r"has no '2\.bias'; the nearest is '[0-3]\.bias'"),
        (lambda s: s | {"2.bias": torch.zeros(3)}, r"start: '2\.bias' has shape \(3,\), the module's '2\.bias' \(2,\)"),
        (
            lambda s: prefixed(s | {"2.bias": torch.zeros(3)}, "net."),
            r"start: 'net\.2\.bias' has shape \(3,\), the module's '2\.bias' \(2,\)",
        ),
        (
            lambda s: prefixed(s, "student.") | prefixed(s, "teacher."),
            r"fits in several ways: '0\.weight' may be 'student\.0\.weight' and 'teacher\.0\.weight'",
        ),
        (
            lambda s: s | {"_orig_mod.0.bias": s["0.bias"]},
            r"has '_orig_mod\.0\.bias' and '0\.bias', which mean the same",
        ),
        (lambda s: s | {"0.bias": s["0.bias"].to(torch.complex64)}, r"'0\.bias' is complex, the module's is real"),
        (lambda s: s | {"0.bias": s["0.bias"].to("meta")}, r"'0\.bias' is a meta tensor, not a dense one"),
        (lambda s: {}, r"start: has no '0\.weight'"),
    ],
)
def test_keys_that_do_not_fit_in_one_way_are_refused_by_name(change, says):
    with pytest.raises(ValueError, match=says) as refusal:
        aligned(change(dict(net().state_dict())), net(), "start")
    assert "\n" not in str(refusal.value)


def test_a_complex_weight_stays_complex_and_a_real_one_for_it_is_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))

    given = torch.randn(3, dtype=torch.complex64)
    found = aligned({"weight": given}, Complex(), "end")["weight"]
    assert found.dtype == torch.complex128
    assert torch.equal(found, given.to(torch.complex128))
    with pytest.raises(ValueError, match="end: 'weight' is real, the module's is complex"):
        aligned({"weight": torch.randn(3)}, Complex(), "end")


def test_exactly_matching_keys_win_over_any_prefix():
    state = net().state_dict()
    given = dict(state) | prefixed({key: value + 1 for key, value in state.items()}, "ema.")
    assert equal(aligned(given, net(), "start"), dict(state))
