"""The networks are the paper's, and the classifier trains on the mean cross-entropy by plain SGD."""

import statistics
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.ranks import on_ranks
from three_factors.datamodules import DigitsDataModule
from three_factors.datamodules.batches import EvaluationLoader
from three_factors.lightning_modules import MLP, VGG11, MLPNet, ResNet56Net, VGG11Net
from three_factors.lightning_modules.losses import example_losses


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("batch_norm", "count"), [(True, 9_756_426), (False, 9_750_922)])
def test_vgg11_has_the_papers_number_of_parameters(batch_norm, count):
    assert parameters(VGG11Net(batch_norm=batch_norm)) == count


def test_the_memorisation_mlp_has_784_256_256_10_units():
    assert parameters(MLPNet()) == 784 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10


@pytest.mark.parametrize(("form", "count"), [("preactivation", 855_578), ("original", 853_018)])
def test_resnet56_has_its_papers_number_of_parameters_and_convolutions(form, count):
    network = ResNet56Net(form=form)
    assert parameters(network) == count
    # 1 + 2 x 27 convolutions and a linear layer: 56 layers; projections are not counted
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in network.modules()) == 55


def saved(criterion, path):
    module = MLP(hidden=(4,), in_features=3, num_classes=3)
    module.criterion = criterion
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=0)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)


def test_a_checkpoint_brings_its_criterion(tmp_path):
    saved("square", tmp_path / "a.ckpt")
    assert MLP.load_from_checkpoint(tmp_path / "a.ckpt").criterion == "square"


def test_a_checkpoint_of_another_criterion_than_was_asked_for_is_refused(tmp_path):
    saved("cross_entropy", tmp_path / "a.ckpt")
    module = MLP(hidden=(4,), in_features=3, num_classes=3)
    module.criterion = "square"
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"^criterion: 'square' is not the checkpoint's 'cross_entropy'$"):
        module.on_load_checkpoint(checkpoint)
    del checkpoint["criterion"]  # an older one
    module.on_load_checkpoint(checkpoint)
    assert module.criterion == "square"


def test_a_criterion_that_is_none_is_refused_wherever_it_comes_from():
    module = MLP(hidden=(4,), in_features=3, num_classes=3)
    words = "^criterion: 'cross-entropy' is neither 'cross_entropy' nor 'square'$"
    with pytest.raises(ValueError, match=words):
        module.criterion = "cross-entropy"
    with pytest.raises(ValueError, match=words):
        module.on_load_checkpoint({"criterion": "cross-entropy"})
    assert module.criterion == "cross_entropy"
    with pytest.raises(ValueError, match=words):
        example_losses("cross-entropy", torch.zeros(2, 3), torch.zeros(2).long())


class OwnLoss(torch.nn.Module):
    """Has parts, as many losses do, and so a `repr` of several lines."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.CrossEntropyLoss(label_smoothing=0.5)


class OwnMethod(MLP):
    def criterion(self, output, target):
        return F.cross_entropy(output, target, label_smoothing=0.5)


@pytest.mark.parametrize("own", [torch.nn.CrossEntropyLoss(label_smoothing=0.5), OwnLoss(), F.cross_entropy])
def test_a_loss_of_ones_own_as_criterion_is_refused_in_one_line(own):
    module = MLP(hidden=(4,), in_features=3, num_classes=3)
    words = f"criterion: a {type(own).__name__} is neither 'cross_entropy' nor 'square'; a loss of your own overrides"
    with pytest.raises(ValueError, match=f"^{words} `loss`$"):
        module.criterion = own
    assert (module.criterion, "criterion" in module._modules) == ("cross_entropy", False)


def test_a_method_for_criterion_is_refused_at_the_first_step():
    module = OwnMethod(hidden=(4,), in_features=3, num_classes=3)
    with pytest.raises(ValueError, match=r"^criterion: a method is neither .* overrides `loss`$"):
        module.training_step((torch.zeros(2, 3), torch.zeros(2).long()), 0)


def test_fig1s_mlp_has_four_hidden_layers_of_512_with_batch_norm():
    count = 784 * 512 + 3 * 512 * 512 + 4 * 512 + 4 * 2 * 512 + 512 * 10 + 10
    assert parameters(MLPNet(hidden=(512,) * 4, batch_norm=True)) == count


def test_fig9s_mlp_has_twenty_hidden_layers_of_50():
    assert parameters(MLPNet(hidden=(50,) * 20)) == 784 * 50 + 50 + 19 * (50 * 50 + 50) + 50 * 10 + 10


@pytest.mark.parametrize("form", ["preactivation", "original"])
@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": False}, {"ghost_batch_size": 4}, {"width": 0.25}, {"in_channels": 1}]
)
def test_every_resnet_option_gives_logits_and_gradients_of_its_first_layer(form, options):
    network = ResNet56Net(depth=8, form=form, num_classes=7, **options)
    logits = network(torch.randn(8, options.get("in_channels", 3), 32, 32))
    assert logits.shape == (8, 7)
    logits.square().sum().backward()
    assert network.stem[0].weight.grad.norm() > 0


@pytest.mark.parametrize("form", ["preactivation", "original"])
def test_a_deep_resnet_without_batch_norm_starts_at_a_moderate_loss(form):
    torch.manual_seed(0)
    logits = ResNet56Net(form=form, batch_norm=False)(torch.randn(16, 3, 32, 32))
    assert F.cross_entropy(logits, torch.zeros(16).long()) < 4


@pytest.mark.parametrize("depth", [9, 2, 55])
def test_a_depth_that_is_no_resnets_is_named(depth):
    with pytest.raises(ValueError, match=f"depth: {depth}"):
        ResNet56Net(depth=depth)


@pytest.mark.parametrize("network", [VGG11Net, ResNet56Net])
@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_a_width_that_leaves_no_layer_is_refused(network, width):
    with pytest.raises(ValueError, match=f"^width: {width} is not a positive finite number$"):
        network(width=width)


@pytest.mark.parametrize("init_std", [None, 0.1])
def test_an_initialisation_by_an_unknown_name_is_refused_even_where_it_is_not_used(init_std):
    with pytest.raises(ValueError, match=r"^init: 'xavier' is neither 'he' nor 'glorot'$"):
        MLPNet(hidden=(3,), init="xavier", init_std=init_std)


def test_original_shortcuts_have_no_parameters_and_keep_the_identity():
    network = ResNet56Net(depth=8, form="original", batch_norm=False).eval()  # the residuals start at 0
    images = torch.rand(2, 16, 32, 32)
    narrowed = network.blocks(images)
    assert torch.equal(narrowed[:, 24:40], images[:, :, ::4, ::4])
    assert not narrowed[:, :24].any()


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": False}, {"ghost_batch_size": 4}, {"dropout": 0.5}, {"in_channels": 1}]
)
def test_every_vgg_option_gives_logits(options):
    network = VGG11Net(width=1 / 16, num_classes=7, **options)
    assert network(torch.randn(8, options.get("in_channels", 3), 32, 32)).shape == (8, 7)


def test_dropout_acts_in_training_only():
    network, images = VGG11Net(width=1 / 16, batch_norm=False, dropout=0.5), torch.randn(4, 3, 32, 32)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_he_initialisation_keeps_the_scale_of_the_activations():
    torch.manual_seed(0)
    activations = torch.randn(512, 784)
    first = activations.square().mean()
    for layer in MLPNet(hidden=(512,) * 4).layers[:-1]:
        activations = layer(activations)
    assert 0.6 < 2 * activations.square().mean() / first / 2 < 1.6


@pytest.mark.parametrize(("init_std", "grows"), [(None, (0.2, 5)), (0.1, (0, 0.02))])
def test_good_initialisation_keeps_the_signal_through_twenty_layers_and_bad_loses_it(init_std, grows):
    ratios = []
    for seed in range(20):  # twenty layers of 50 units differ much from one draw to the next
        torch.manual_seed(seed)
        network, images = MLPNet(hidden=(50,) * 20, init_std=init_std), torch.randn(256, 784)
        hidden = torch.cat([m.weight.flatten() for m in network.layers[2:] if isinstance(m, torch.nn.Linear)])
        assert float(hidden.detach().std()) == pytest.approx(init_std or (2 / 50) ** 0.5, rel=0.02)
        first, last = network.layers[:2](images), network.layers[:-1](images)
        ratios.append(float((last.square().mean() / first.square().mean()).detach()))
    assert grows[0] < statistics.median(ratios) < grows[1]


def test_one_step_is_plain_sgd_on_the_mean_cross_entropy(tmp_path):
    torch.manual_seed(0)
    module, data = (
        MLP(lr=0.3, hidden=(8,)).double(),
        DigitsDataModule(gray=True, train=64, dtype=torch.float64),
    )
    data.batch_size = lambda epoch: 64
    before = [p.detach().clone() for p in module.parameters()]
    data.setup()
    images, labels = data.splits["train"]
    loss = F.cross_entropy(module(images), labels)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    trainer(max_epochs=1, precision="64-true").fit(module, data)
    for old, gradient, new in zip(before, gradients, module.parameters()):
        torch.testing.assert_close(new, old - 0.3 * gradient, rtol=1e-12, atol=1e-14)
    assert data.trainer.callback_metrics["train/loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_evaluation_metrics_are_exact_means_over_the_set():
    module, data = (
        VGG11(lr=0.0, width=1 / 32),
        DigitsDataModule(batch_size=32, train=64, test=130, validation=70, eval_batch_size=32),
    )
    run = trainer(max_epochs=1)
    run.fit(module, data)
    module.eval()
    images, labels = data.splits["val"]
    with torch.no_grad():
        logits = module(images)
    assert run.callback_metrics["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert run.callback_metrics["val/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_a_checkpoint_loads_without_being_told_the_architecture(tmp_path):
    run = trainer(max_epochs=1, default_root_dir=tmp_path)
    module = VGG11(lr=0.01, width=1 / 32, dropout=0.1)
    run.fit(module, DigitsDataModule(batch_size=32, train=64))
    run.save_checkpoint(tmp_path / "model.ckpt")
    loaded = VGG11.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.lr == 0.01
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), loaded.state_dict().values()))


def test_a_part_without_examples_has_no_mean():
    module, empty = MLP(hidden=(4,), in_features=3, num_classes=3), (torch.zeros(0, 3), torch.zeros(0).long())
    there = torch.randn(7, 3), torch.arange(7) % 3
    found = module.evaluate([EvaluationLoader(*of, 5) for of in (empty, there)])
    assert set(found) == {"test/loss", "test/accuracy"}


class LoadingFails(Exception):
    pass


def failing(batch):
    yield from [batch] * 3  # more than Lightning reads ahead
    raise LoadingFails


def test_an_evaluation_that_is_broken_off_is_in_no_later_one():
    module = MLP(hidden=(4,), in_features=3, num_classes=3)
    broken_off, whole = (torch.randn(7, 3), torch.arange(7) % 3), (torch.randn(5, 3), torch.arange(5) % 3)
    expected = module.evaluate([[whole]])
    with pytest.raises(LoadingFails):
        module.evaluate([[broken_off], failing(broken_off)])
    assert module.evaluate([[whole]]) == expected


class Failing(torch.utils.data.IterableDataset):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __iter__(self):
        return failing(self.batch)


@pytest.mark.parametrize("loop", ["validate", "test"])
def test_a_loop_of_lightning_that_is_broken_off_is_in_no_later_one(loop):
    def run(batches):
        return getattr(trainer(), loop)(module, DataLoader(batches, batch_size=None), verbose=False)

    module = MLP(hidden=(4,), in_features=3, num_classes=3)
    broken_off, whole = (torch.randn(7, 3), torch.arange(7) % 3), (torch.randn(5, 3), torch.arange(5) % 3)
    expected = run([whole])
    with pytest.raises(LoadingFails):
        run(Failing(broken_off))
    assert run([whole]) == expected


def test_labels_of_8_bits_all_count():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(6, 3, generator=generator), torch.tensor([0, 7, 155, 156, 157, 199])  # -100 + 256
    module, found = MLP(hidden=(4,), in_features=3, num_classes=200), []
    for given in (labels, labels.to(torch.uint8)):
        step = module.training_step((images, given), 0).item()
        found.append([step, module.epoch_sums.tolist(), module.evaluate([[(images, given)]])])
    assert found[1] == found[0]
    assert found[1][1][2] == 6


def test_ignored_labels_count_in_no_mean():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, generator=generator, dtype=torch.float64), torch.arange(8) % 3
    module = MLP(hidden=(4,), in_features=3, num_classes=3).double()
    ignored = torch.where(labels == 1, -100, labels)
    kept = images[labels != 1], labels[labels != 1]
    assert module.evaluate([[(images, ignored)]]) == pytest.approx(module.evaluate([[kept]]))
    sums, means = [], []
    for batch in ((images, ignored), kept):
        means.append(module.training_step(batch, 0).item())
        sums.append(module.epoch_sums.tolist())
    assert means[1] == pytest.approx(means[0])
    assert sums[1] == pytest.approx(sums[0])
    assert sums[0][2] == len(kept[1])


def evaluated_on(rank, world_size):
    torch.manual_seed(0)
    module = MLP(hidden=(4,), in_features=3, num_classes=3)
    module._trainer = SimpleNamespace(world_size=world_size)
    one = torch.ones(1, 3), torch.zeros(1).long()
    return module.evaluate([EvaluationLoader(*one, 5, rank=rank, world_size=world_size)])


@pytest.mark.ddp
def test_a_rank_without_examples_has_the_mean_of_the_others():
    alone = evaluated_on(0, 1)
    assert on_ranks(2, evaluated_on) == [alone, alone]


@pytest.mark.parametrize(("options", "words"), [({"lr": -1.0}, "lr: -1.0"), ({"momentum": 1.0}, "momentum: 1.0")])
def test_bad_optimiser_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        VGG11(width=1 / 32, **options)


def trainer(**options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
