"""The noise dial: the mean gradient stays, the covariance is what is said; against exact per-example gradients."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from tests.ranks import on_ranks
from tests.strangers.projects import trainer
from three_factors.lightning_modules import MLP, GaussianOfItsShape, HalfBatch, Isotropic, Projected, Renewed


def seeds(seed):
    return lambda step: 1_000_003 * seed + step


def network():
    torch.manual_seed(0)
    return MLP(lr=0.1, hidden=(5,), in_features=7, num_classes=3).double()


def examples(count):
    torch.manual_seed(1)
    return torch.randn(count, 7, dtype=torch.float64), torch.randint(0, 3, (count,))


def gradient(module, images, labels):
    """What the optimiser is given, (q,)."""
    module.zero_grad()
    loss = module.training_step((images, labels), 0)
    (loss["loss"] if isinstance(loss, dict) else loss).backward()
    module.on_after_backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def each_gradient(module, images, labels):
    module.gradient_noise = None
    return torch.stack([gradient(module, images[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])


@pytest.mark.parametrize("factor", [0.0, 1.0, 3**0.5])
def test_half_batches_keep_the_mean_and_have_exactly_the_covariance_that_is_said(factor):
    """Over every ordered pair of halves out of 6 examples, by enumeration."""
    module, (images, labels) = network(), examples(6)
    each = each_gradient(module, images, labels)
    module.gradient_noise = HalfBatch(factor)
    found = [gradient(module, images[[i, j]], labels[[i, j]]) for i in range(6) for j in range(6)]
    drawn = torch.stack(found)  # i, j independent: sampling with replacement
    covariance = torch.cov(each.T, correction=0)
    torch.testing.assert_close(drawn.mean(0), each.mean(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.cov(drawn.T, correction=0), (1 + factor**2) * covariance / 2, rtol=1e-10, atol=1e-12
    )


def test_half_batch_gradients_are_those_of_the_halves():
    module, (images, labels) = network(), examples(8)
    first, second = gradient(module, images[:4], labels[:4]), gradient(module, images[4:], labels[4:])
    module.gradient_noise = HalfBatch(3**0.5)
    expected = (first + second) / 2 + 3**0.5 * (first - second) / 2
    torch.testing.assert_close(gradient(module, images, labels), expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="batch_size: 7 is odd"):
        gradient(module, images[:7], labels[:7])


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 2])
def test_gaussian_noise_of_its_shape_has_exactly_the_covariance_that_is_said(block):
    """Given the batch it is linear in normal numbers: their covariance is exact, and so is that of the gradient."""
    module, (images, labels) = network(), examples(8)
    noise, blocks = GaussianOfItsShape(3**0.5, seeds(0), block), 8 // block
    each = each_gradient(module, images, labels)
    module.gradient_noise = noise
    weights = noise.weights(8, 0)
    torch.testing.assert_close(gradient(module, images, labels), weights @ each / 8, rtol=1e-10, atol=1e-12)

    drawn = torch.stack([noise.weights(8, step) for step in range(40_000)])
    centred = torch.eye(blocks).double() - 1 / blocks
    expected = 3 * blocks / (blocks - 1) * centred.repeat_interleave(block, 0).repeat_interleave(block, 1)
    torch.testing.assert_close(drawn.mean(0), torch.ones(8).double(), rtol=0, atol=0.04)
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0, atol=0.12)

    # Given a batch the gradient has covariance G' W G / B^2; its mean over batches is factor^2 C/B, C of the blocks.
    of_blocks = each.reshape(blocks, block, -1).mean(1)
    from_weights = each.T @ expected @ each / 64
    unbiased = torch.cov(of_blocks.T, correction=1)
    torch.testing.assert_close(from_weights, 3 * unbiased / blocks, rtol=1e-10, atol=1e-12)


def test_isotropic_noise_is_as_long_as_the_half_batch_noise_and_has_no_direction():
    module, (images, labels) = network(), examples(8)
    plain = gradient(module, images, labels)
    module.gradient_noise = HalfBatch(3**0.5)
    length = (gradient(module, images, labels) - plain).norm()
    added = []
    for seed in range(400):
        module.gradient_noise = Isotropic(3**0.5, seeds(seed))
        added.append(gradient(module, images, labels) - plain)
    added = torch.stack(added)
    torch.testing.assert_close(added.norm(dim=1), length.expand(400), rtol=1e-10, atol=0)
    q = added.shape[1]
    assert added.mean(0).norm() < 2 * length / 400**0.5
    eigenvalues = torch.linalg.eigvalsh(torch.cov(added.T)) * q / length**2
    edges = (1 - (q / 400) ** 0.5) ** 2, (1 + (q / 400) ** 0.5) ** 2  # Marchenko-Pastur: of equal variances
    assert edges[0] - 0.15 < eigenvalues.min()
    assert eigenvalues.max() < edges[1] + 0.3


def test_the_length_of_isotropic_noise_has_the_trace_that_is_said():
    """Over every ordered pair of examples: E |noise|^2 = factor^2 tr(C)/B."""
    module, (images, labels) = network(), examples(6)
    trace = torch.cov(each_gradient(module, images, labels).T, correction=0).trace()
    squares = []
    for i in range(6):
        for j in range(6):
            pair = images[[i, j]], labels[[i, j]]
            module.gradient_noise = None
            plain = gradient(module, *pair)
            module.gradient_noise = Isotropic(2.0, seeds(6 * i + j))
            squares.append((gradient(module, *pair) - plain).square().sum())
    torch.testing.assert_close(torch.stack(squares).mean(), 4 * trace / 2, rtol=1e-10, atol=0)


def orthonormal(rows, columns):
    torch.manual_seed(2)
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64))[0]


@pytest.mark.parametrize("part", ["top", "rest"])
def test_projected_noise_has_exactly_the_projection_of_the_covariance(part):
    """Over every ordered pair of halves out of 6 examples, by enumeration."""
    module, (images, labels) = network(), examples(6)
    each = each_gradient(module, images, labels)
    directions = orthonormal(each.shape[1], 4)
    projection = directions @ directions.T
    if part == "rest":
        projection = torch.eye(len(projection)).double() - projection
    noise, found = Projected(3**0.5, part, Renewed(directions)), []
    for i in range(6):
        for j in range(6):
            pair = images[[i, j]], labels[[i, j]]
            module.gradient_noise = None
            plain = gradient(module, *pair)
            module.gradient_noise = noise
            found.append(gradient(module, *pair) - plain)
    added = torch.stack(found)
    covariance = torch.cov(each.T, correction=0)
    torch.testing.assert_close(added.mean(0), torch.zeros(added.shape[1]).double(), rtol=0, atol=1e-12)
    expected = 3 * projection @ covariance @ projection / 2
    torch.testing.assert_close(added.T @ added / 36, expected, rtol=1e-10, atol=1e-12)


def test_the_two_projections_add_up_to_the_noise_of_half_batches():
    module, (images, labels) = network(), examples(8)
    plain = gradient(module, images, labels)
    module.gradient_noise = HalfBatch(2.0)
    whole = gradient(module, images, labels) - plain
    renewed, parts = Renewed(orthonormal(len(whole), 3)), []
    for part in ("top", "rest"):
        module.gradient_noise = Projected(2.0, part, renewed)
        parts.append(gradient(module, images, labels) - plain)
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-10, atol=1e-12)
    assert float(parts[0] @ parts[1]) == pytest.approx(0, abs=1e-12)  # so that their traces add up too


def test_isotropic_noise_of_equal_curvature_has_the_tr_hc_that_is_said():
    """Over every ordered pair of examples, many times: E v'Hv = factor^2 tr(HC)/B, for any H of a positive trace."""
    module, (images, labels) = network(), examples(6)
    covariance = torch.cov(each_gradient(module, images, labels).T, correction=0)
    q = len(covariance)
    torch.manual_seed(3)
    h = torch.randn(q, q, dtype=torch.float64)
    h = h @ h.T / q + torch.diag(covariance.diagonal() * 50)
    lift = q * float((h * covariance).sum() / (h.trace() * covariance.trace()))
    curved, step = [], 0
    for i in range(6):
        for j in range(6):
            pair = images[[i, j]], labels[[i, j]]
            module.gradient_noise = None
            plain = gradient(module, *pair)
            for _ in range(20 * (i != j)):
                module.gradient_noise, step = Isotropic(2.0, seeds(step), Renewed(lift=lift)), step + 1
                v = gradient(module, *pair) - plain
                curved.append(float(v @ h @ v))
    expected = 4 * float((h * covariance).sum()) / 2
    assert sum(curved) / (36 * 20) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("lift", [None, 0.0, -1.0, float("nan")])
def test_a_lift_that_no_isotropic_noise_has_is_refused(lift):
    module = network()
    module.gradient_noise = Isotropic(1.0, seeds(0), Renewed(lift=lift))
    with pytest.raises(ValueError, match=f"noise: a lift of {lift} is not positive"):
        gradient(module, *examples(4))


@pytest.mark.parametrize(
    ("noise", "count", "words"),
    [
        (Isotropic(1.0, seeds(0)), 7, "batch_size: 7 is odd"),
        (GaussianOfItsShape(1.0, seeds(0), block=4), 6, "batch_size: 6 is not two or more whole blocks of 4"),
        (GaussianOfItsShape(1.0, seeds(0), block=4), 4, "batch_size: 4 is not two or more whole blocks of 4"),
    ],
)
def test_batches_that_cannot_be_parted_are_refused(noise, count, words):
    module = network()
    module.gradient_noise = noise
    with pytest.raises(ValueError, match=words):
        gradient(module, *examples(count))


NOISES = [HalfBatch(1.0), GaussianOfItsShape(1.0, seeds(0)), Isotropic(1.0, seeds(0))]


@pytest.mark.parametrize("noise", NOISES)
def test_noise_of_a_batch_with_labels_that_do_not_count_is_refused(noise):
    module, (images, labels) = network(), examples(6)
    module.gradient_noise, labels[[0, 4]] = noise, -100
    words = "is made of whole batches, and 2 of the 6 labels of this one are -100"
    with pytest.raises(ValueError, match=f"^gradient_noise: {type(noise).__name__} {words}$"):
        gradient(module, images, labels)


def refused_on(rank, world_size):
    module, (images, labels) = network(), examples(4)
    module._trainer = SimpleNamespace(world_size=world_size, global_rank=rank, global_step=0)
    module.gradient_noise, labels[0] = HalfBatch(1.0), -100 if rank == 1 else 0
    try:
        gradient(module, images, labels)
    except ValueError as error:
        return str(error)


@pytest.mark.ddp
def test_labels_of_one_rank_that_do_not_count_are_refused_on_all():
    words = "gradient_noise: HalfBatch is made of whole batches, and 1 of the 8 labels of this one are -100"
    assert on_ranks(2, refused_on) == [words, words]


def test_noise_is_a_function_of_seed_and_step_alone():
    first, again, next_step, other = (
        GaussianOfItsShape(1.0, seeds(seed)).weights(16, step) for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step)
    assert not torch.equal(first, other)


SCALED = {
    "accumulate_grad_batches=2": lambda: {"accumulate_grad_batches": 2},
    "a gradient scaler": lambda: {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]},
}


@pytest.mark.parametrize("by", SCALED)
@pytest.mark.parametrize("noise", [Isotropic(1.0, seeds(0)), Projected(1.0, "top", Renewed(torch.eye(58)[:, :4]))])
def test_noise_that_is_added_to_a_scaled_gradient_is_refused_before_the_first_step(noise, by):
    module, (images, labels) = network().float(), examples(8)
    module.gradient_noise, before = noise, [p.clone() for p in module.parameters()]
    with pytest.raises(ValueError, match=f"gradient_noise: {type(noise).__name__} is added .*, which {by}"):
        trainer(**SCALED[by]()).fit(module, DataLoader(TensorDataset(images.float(), labels), 4))
    assert all(map(torch.equal, module.parameters(), before))


def test_halves_are_told_apart_by_their_losses_however_gradients_are_scaled():
    def trained(noise, **options):
        module, (images, labels) = network(), examples(8)
        module.gradient_noise = noise
        before = torch.cat([p.detach().flatten() for p in module.parameters()])
        trainer(precision="64-true", **options).fit(module, DataLoader(TensorDataset(images, labels), 4))
        return torch.cat([p.detach().flatten() for p in module.parameters()]) - before

    found = trained(HalfBatch(1.0), accumulate_grad_batches=2)
    module, (images, labels) = network(), examples(8)
    expected = -0.1 * (gradient(module, images[:2], labels[:2]) + gradient(module, images[4:6], labels[4:6])) / 2
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
