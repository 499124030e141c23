"""Products of wide matrices: by the faster library only where it is as exact, and only within the context."""

import pytest
import torch
from torch.nn import functional as F

from three_factors.callbacks.functional import HessianOperator, wide_products
from three_factors.callbacks.functional.members import together
from three_factors.callbacks.functional.stacked import StackedOperator
from three_factors.callbacks.functional.wide_products import PRODUCTS, WIDE, WIDE_IN_STACK, by_onednn, exact
from three_factors.lightning_modules.losses import example_losses
from three_factors.lightning_modules.mlp import MLPNet
from three_factors.lightning_modules.stack import StackedMLP

CPU = torch.device("cpu")
WIDE_LAYER = [(256, 784), (256,)]


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def faster(monkeypatch):
    """An AMD processor with AVX-512, whatever the tests run on."""
    monkeypatch.setattr(wide_products, "by_onednn", lambda: True)


def rounded(dtype):
    """Returns a product of numbers that were rounded before."""
    return lambda a, b: a.to(dtype).float() @ b.to(dtype).float()


def tf32(a, b):
    """Returns a product of numbers of 11 bits."""
    return torch.matmul(
        *((x.view(torch.int32) & ~0x1FFF).view(torch.float32) for x in (a.contiguous(), b.contiguous()))
    )


@pytest.mark.parametrize("product", [rounded(torch.bfloat16), rounded(torch.float16), tf32])
def test_a_library_that_rounds_is_found_out(product):
    assert not exact([product])
    assert not exact([*PRODUCTS, product])


def split(a, b):
    """Returns a product of numbers of 16 bits: two of bfloat16 each."""
    parts = [(x.bfloat16().float(), (x - x.bfloat16().float()).bfloat16().float()) for x in (a, b)]
    return sum(one @ other for one in parts[0] for other in parts[1])


def test_two_of_bfloat16_are_found_out_too():
    assert not exact([split])


def test_products_in_double_precision_are_exact_by_every_way_of_writing_them():
    assert exact([lambda a, b, p=p: p(a.double(), b.double()).float() for p in PRODUCTS])


@pytest.mark.parametrize(
    ("capability", "amd", "right", "taken"),
    [
        ("AVX512", True, True, True),
        ("AVX2", True, True, False),
        ("AVX512", False, True, False),
        ("AVX512", True, False, False),
    ],
)
def test_it_is_taken_on_amd_with_avx512_where_it_is_exact_alone(capability, amd, right, taken, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(wide_products, "_amd", lambda: amd)
    monkeypatch.setattr(wide_products, "exact", lambda: right)
    assert by_onednn.__wrapped__() is taken


def test_the_setting_is_as_before_also_after_an_error(faster):
    before = setting()
    with wide_products.wide_products(CPU, WIDE_LAYER) as taken:
        assert taken
        assert setting() == "bf16"
        with wide_products.wide_products(CPU, WIDE_LAYER):
            pass
        assert setting() == "bf16"
    assert setting() == before
    with pytest.raises(RuntimeError, match="of the work"), wide_products.wide_products(CPU, WIDE_LAYER):
        raise RuntimeError("of the work")
    assert setting() == before


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize(
    "shapes", [[], [(WIDE_IN_STACK - 1, 784), (784,)], [(512,)], [(256, 256, 3, 3)], [(256, 256, 3)]]
)
def test_narrow_layers_and_convolutions_are_left_alone(shapes, stack, faster):
    before = setting()
    with wide_products.wide_products(CPU, shapes, stack=stack) as taken:
        assert not taken
        assert setting() == before


@pytest.mark.parametrize("stack", [False, True])
def test_layers_between_the_two_widths_are_wide_in_a_stack_alone(stack, faster):
    with wide_products.wide_products(CPU, [((WIDE + WIDE_IN_STACK) // 2, 784)], stack=stack) as taken:
        assert taken is stack


def test_on_a_gpu_nothing_is_set(faster):
    before = setting()
    with wide_products.wide_products(torch.device("cuda"), WIDE_LAYER) as taken:
        assert not taken
        assert setting() == before


def test_a_stack_of_wide_layers_is_multiplied_so_and_measures_what_a_single_network_does(faster):
    torch.manual_seed(0)
    nets = [MLPNet(hidden=(110,), in_features=120, num_classes=10) for _ in range(2)]
    x, y = torch.randn(2, 60, 120), torch.randint(0, 10, (2, 60))
    seen = set()

    def losses(outputs, targets):
        seen.add(setting())
        return example_losses("cross_entropy", outputs, targets)

    stack = StackedOperator(StackedMLP(nets), losses, [(x, y)])
    vector = torch.randn(stack.num_params)
    for i, found in enumerate(together(stack, lambda member: member.matvec(vector))):
        alone = HessianOperator(nets[i].double(), F.cross_entropy, [(x[i].double(), y[i])])
        truth = alone.matvec(vector.double())
        assert not exact() or float((found - truth).norm() / truth.norm()) < 2e-6
    assert seen == {"bf16"}


@pytest.mark.skipif(not by_onednn(), reason="an AMD processor with AVX-512")
def test_it_is_another_library_that_multiplies():
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((200, 784), (784, 256)))
    usual = a @ b
    with wide_products.wide_products(CPU, WIDE_LAYER):
        other = a @ b
    assert not torch.equal(usual, other)  # in the last bits
    torch.testing.assert_close(usual, other, rtol=1e-5, atol=1e-4)
