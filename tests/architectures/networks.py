"""Eight real architectures, each as somebody who knows nothing of this project would train it with Lightning.

Every network is the real class, made small by the arguments that its constructor takes (ResNet-18 takes none: it has
its eleven million weights and small images). None of the modules has a `loss`, a data module or a loader of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

EXAMPLES, BATCH = 40, 8
CLASSES, VOCABULARY, LENGTH = 5, 23, 8


class Project(pl.LightningModule):
    """What the eight have in common: a network, an optimizer over what is not frozen, shuffled batches of 8."""

    def __init__(self, net: nn.Module, examples: Dataset, lr: float) -> None:
        super().__init__()
        self.net, self.examples, self.lr = net, examples, lr
        self.still: tuple[str, ...] = ()  # layers of the network that stay in eval mode

    def forward(self, *inputs: Any) -> Any:
        return self.net(*inputs)

    def train(self, mode: bool = True) -> Project:
        super().train(mode)
        for name in self.still:
            self.net.get_submodule(name).eval()
        return self

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.step(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.step(batch), sync_dist=True)

    def step(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], self.lr)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.examples, BATCH, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.examples, BATCH)


# -- image classifiers: torchvision's networks


class ImageClassifier(Project):
    """torchvision's recipe: cross-entropy, SGD with momentum."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__(net, _images(size), lr=0.01)

    def step(self, batch: Any) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], self.lr, momentum=0.9)


def _images(size: int) -> Dataset:
    draw = torch.Generator().manual_seed(size)
    images = torch.randn(EXAMPLES, 3, size, size, generator=draw)
    return TensorDataset(images, torch.randint(0, CLASSES, (EXAMPLES,), generator=draw))


def resnet18(dropout: float) -> Project:
    return ImageClassifier(torchvision.models.resnet18(num_classes=CLASSES), 16)


def mobilenet_v3_small(dropout: float) -> Project:
    return ImageClassifier(
        torchvision.models.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.25, reduced_tail=True, dropout=dropout),
        16,
    )


def vit(dropout: float) -> Project:
    """vit_b_16's class with two of its twelve layers, on images of 32 x 32 in patches of 8 x 8."""
    net = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        dropout=dropout,
        num_classes=CLASSES,
    )
    nn.init.normal_(net.heads.head.weight, std=0.3)  # torchvision's zeros would leave most of the Hessian zero
    return ImageClassifier(net, 32)


def densenet(dropout: float) -> Project:
    net = torchvision.models.DenseNet(
        growth_rate=4, block_config=(2, 2, 2), num_init_features=8, bn_size=2, drop_rate=dropout, num_classes=CLASSES
    )
    return ImageClassifier(net, 32)


# -- a GPT


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(c, dim=2))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(b, t, c)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """nanoGPT's arrangement: embedding and output share their weights; forward gives logits and, if asked, the loss."""

    def __init__(self, width: int = 16, heads: int = 2, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)
        self.wte.weight = self.lm_head.weight
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.1 / math.sqrt(2 * layers) if name.endswith("c_proj.weight") else 0.1)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.drop(self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device)))
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


class LanguageModel(Project):
    def __init__(self, dropout: float) -> None:
        draw = torch.Generator().manual_seed(3)
        text = torch.randint(0, VOCABULARY, (EXAMPLES, LENGTH + 1), generator=draw)
        super().__init__(GPT(dropout=dropout), TensorDataset(text[:, :-1], text[:, 1:]), lr=3e-3)

    def step(self, batch: Any) -> Tensor:
        _, loss = self(*batch)
        return loss


# -- recurrent classifiers


class LSTM(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(tokens))
        return self.head(outputs[:, -1])


class SentenceClassifier(Project):
    def __init__(self, dropout: float) -> None:
        draw = torch.Generator().manual_seed(4)
        tokens = torch.randint(0, VOCABULARY, (EXAMPLES, LENGTH), generator=draw)
        labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=draw)
        super().__init__(LSTM(dropout), TensorDataset(tokens, labels), lr=1e-2)

    def step(self, batch: Any) -> Tensor:
        tokens, labels = batch
        return F.cross_entropy(self(tokens), labels)


class GRU(nn.Module):
    """Reads padded sentences both ways, as far as each goes."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4, padding_idx=0)
        self.gru = nn.GRU(4, 5, batch_first=True, bidirectional=True)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(10, CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.gru(packed)
        return self.head(self.dropout(torch.cat([last[0], last[1]], 1)))


class PaddedSentenceClassifier(Project):
    def __init__(self, dropout: float) -> None:
        draw = torch.Generator().manual_seed(5)
        lengths = torch.randint(3, LENGTH + 1, (EXAMPLES,), generator=draw)
        tokens = torch.randint(1, VOCABULARY, (EXAMPLES, LENGTH), generator=draw)
        tokens[torch.arange(LENGTH) >= lengths[:, None]] = 0
        labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=draw)
        super().__init__(GRU(dropout), TensorDataset(tokens, lengths, labels), lr=1e-2)

    def step(self, batch: Any) -> Tensor:
        tokens, lengths, labels = batch
        return F.cross_entropy(self(tokens, lengths), labels)


# -- a U-Net


def _twice(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two steps down and up (Ronneberger et al. 2015), with an auxiliary output as torchvision's segmentation has."""

    def __init__(self, width: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.down = nn.ModuleList([_twice(3, width), _twice(width, 2 * width)])
        self.bottom = nn.Sequential(_twice(2 * width, 4 * width), nn.Dropout2d(dropout))
        self.rise = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)]
        )
        self.up = nn.ModuleList([_twice(4 * width, 2 * width), _twice(2 * width, width)])
        self.head, self.aux = nn.Conv2d(width, CLASSES, 1), nn.Conv2d(2 * width, CLASSES, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, kept = images, []
        for down in self.down:
            x = down(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for i, (rise, up) in enumerate(zip(self.rise, self.up)):
            x = up(torch.cat([kept[-1 - i], rise(x)], 1))
            if i == 0:
                aux = F.interpolate(self.aux(x), size=images.shape[2:], mode="bilinear", align_corners=False)
        return {"out": self.head(x), "aux": aux}


class Scans(Dataset):
    """Images with a mask, each with the name of its file."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(6)
        self.images = torch.randn(EXAMPLES, 3, 16, 16, generator=draw)
        self.masks = torch.randint(0, CLASSES, (EXAMPLES, 16, 16), generator=draw)

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"name": f"scan_{index:03}.png", "image": self.images[index], "mask": self.masks[index]}


class Segmentation(Project):
    def __init__(self, dropout: float) -> None:
        super().__init__(UNet(dropout=dropout), Scans(), lr=1e-2)

    def step(self, batch: Any) -> Tensor:
        found = self(batch["image"])
        return F.cross_entropy(found["out"], batch["mask"]) + 0.4 * F.cross_entropy(found["aux"], batch["mask"])


# -- what a user tells a monitor of each


@dataclass(frozen=True)
class Architecture:
    """One of the eight.

    Attributes:
        build: (dropout) -> a new module with its own data. dropout: what its authors take, or nearly.
        loss: loss(output, target) for batches that are (input, target); else None, and `batch_loss` is told.
        head: the layer that stays free when the rest is frozen, by its name within the network.
    """

    build: Callable[[float], Project]
    head: str
    dropout: float = 0.0
    loss: Callable[[Any, Tensor], Tensor] | None = F.cross_entropy
    batch_loss: Callable[[Any, Any], Tensor] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The loss as a monitor's arguments."""
        return {"loss": self.loss} if self.batch_loss is None else {"batch_loss": self.batch_loss}

    def loss_of(self, module: Any, batch: Any) -> Tensor:
        """The loss of a batch, by hand."""
        if self.batch_loss is not None:
            return self.batch_loss(module, batch)
        assert self.loss is not None
        return self.loss(module(batch[0]), batch[1])


def _segmented(module: Any, batch: Any) -> Tensor:
    found = module(batch["image"])
    return F.cross_entropy(found["out"], batch["mask"]) + 0.4 * F.cross_entropy(found["aux"], batch["mask"])


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(resnet18, "fc"),
    "mobilenet_v3_small": Architecture(mobilenet_v3_small, "classifier", dropout=0.2),
    "vit_b_16": Architecture(vit, "heads", dropout=0.1),
    "densenet": Architecture(densenet, "classifier", dropout=0.1),
    "gpt": Architecture(
        LanguageModel, "lm_head", dropout=0.1, loss=None, batch_loss=lambda module, batch: module(*batch)[1]
    ),
    "lstm": Architecture(SentenceClassifier, "head", dropout=0.3),
    "gru": Architecture(
        PaddedSentenceClassifier,
        "head",
        dropout=0.3,
        loss=None,
        batch_loss=lambda module, batch: F.cross_entropy(module(batch[0], batch[1]), batch[2]),
    ),
    "unet": Architecture(Segmentation, "head", dropout=0.1, loss=None, batch_loss=_segmented),
}


def freeze_all_but_the_head(module: Project, head: str) -> None:
    """As for fine-tuning; torchvision's `features` keep their batch norm's statistics too."""
    module.requires_grad_(False)
    module.net.get_submodule(head).requires_grad_(True)
    module.still = tuple(name for name, _ in module.net.named_children() if name == "features")
