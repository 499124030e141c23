"""Products of wide matrices: by the faster library only where it is as exact, and only within the context."""

import pytest
import torch

from three_factors.callbacks.functional import HessianOperator, wide_products
from three_factors.callbacks.functional.wide_products import PRODUCTS, WIDE, by_onednn, exact

CPU = torch.device("cpu")
WIDE_LAYER = [(128, 784), (128,)]


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


def test_products_of_float32_itself_are_exact_by_either_way_of_writing_them():
    before = setting()
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    try:
        truthful = [lambda a, b, p=p: (p(a.double(), b.double())).float() for p in PRODUCTS]
        assert exact(truthful)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@pytest.mark.parametrize(
    ("capability", "amd", "right"), [("AVX2", True, True), ("AVX512", False, True), ("AVX512", True, False)]
)
def test_it_is_taken_on_amd_with_avx512_where_it_is_exact_alone(capability, amd, right, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(wide_products, "_amd", lambda: amd)
    monkeypatch.setattr(wide_products, "exact", lambda: right)
    assert not by_onednn.__wrapped__()


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


@pytest.mark.parametrize("shapes", [[], [(WIDE - 1, 784), (784,)], [(512,)], [(64, 64, 3, 3)], [(128, 128, 3)]])
def test_narrow_layers_and_convolutions_are_left_alone(shapes, faster):
    before = setting()
    with wide_products.wide_products(CPU, shapes) as taken:
        assert not taken
        assert setting() == before


def test_on_a_gpu_nothing_is_set(faster):
    before = setting()
    with wide_products.wide_products(torch.device("cuda"), WIDE_LAYER) as taken:
        assert not taken
        assert setting() == before


def test_a_hessian_of_wide_layers_is_that_of_double_precision():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(120, 110), torch.nn.Tanh(), torch.nn.Linear(110, 10))
    x, y = torch.randn(60, 120), torch.randint(0, 10, (60,))
    vector = torch.randn(sum(p.numel() for p in net.parameters()))
    found = HessianOperator(net, torch.nn.functional.cross_entropy, [(x, y)]).matvec(vector)
    double = HessianOperator(net.double(), torch.nn.functional.cross_entropy, [(x.double(), y)])
    truth = double.matvec(vector.double())
    assert float((found - truth).norm() / truth.norm()) < 2e-6


@pytest.mark.skipif(not by_onednn(), reason="an AMD processor with AVX-512")
def test_it_is_another_library_that_multiplies():
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((200, 784), (784, 256)))
    usual = a @ b
    with wide_products.wide_products(CPU, WIDE_LAYER):
        other = a @ b
    assert not torch.equal(usual, other)  # in the last bits
    torch.testing.assert_close(usual, other, rtol=1e-5, atol=1e-4)
