"""The embedded data set: digits drawn with matplotlib's own fonts, so that everything runs without a network.

Ten classes, one glyph an image, in a random text font under a random affine map, with clutter and noise. It stands
in for MNIST and FashionMNIST (28 x 28 x 1) and for CIFAR-10 (32 x 32 x 3), and is always announced as itself.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from three_factors.datamodules.streams import generator

GLYPH = 48  # pixels a glyph is drawn at, before one affine map takes it to its final size
TRAIN, TEST = 10_000, 2_000


def fonts() -> list[str]:
    """Returns matplotlib's text fonts (no symbol or maths fonts), sorted."""
    package = find_spec("matplotlib")  # not imported: that takes its time, and fails under a backend that is not there
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the digits are drawn with the fonts of matplotlib, which is not installed")
    folder = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
    return sorted(
        str(p)
        for p in folder.glob("*.ttf")
        if p.name.startswith(("DejaVu", "cmr", "cmb", "cmss", "cmtt")) and "Display" not in p.name
    )


def draw(examples: int, *, size: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 (examples, channels, size, size) and labels int64 (examples,), balanced, in random order."""
    random = generator(seed, "drawing", size, channels)
    faces = [ImageFont.truetype(path, GLYPH * 3 // 4) for path in fonts()]
    glyphs = [[_glyph(face, str(digit)) for digit in range(10)] for face in faces]
    labels = random.permutation(np.arange(examples) % 10).astype(np.int64)
    images = np.empty((examples, channels, size, size), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[i] = _image(glyphs, int(label), size, channels, random)
    return images, labels


def _glyph(face: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    image = Image.new("L", (GLYPH, GLYPH))
    ImageDraw.Draw(image).text((GLYPH // 2, GLYPH // 2), text, fill=255, font=face, anchor="mm")
    return image


def _image(
    glyphs: list[list[Image.Image]], label: int, size: int, channels: int, random: np.random.Generator
) -> np.ndarray:
    face = glyphs[random.integers(len(glyphs))]
    ink = np.asarray(_placed(face[label], size, random, shift=3.0), dtype=np.float32) / 255
    other = glyphs[random.integers(len(glyphs))][random.integers(10)]
    far = size * (0.45 + 0.15 * random.random()) * np.exp(2j * np.pi * random.random())
    piece = np.asarray(_placed(other, size, random, shift=2.0, offset=far), dtype=np.float32) / 255
    strokes = Image.new("L", (size, size))
    pen = ImageDraw.Draw(strokes)
    for _ in range(2):
        pen.line([tuple(random.uniform(0, size, 2)) for _ in range(2)], fill=int(random.integers(60, 160)), width=1)
    clutter = np.asarray(strokes, dtype=np.float32) / 255
    contrast = random.uniform(0.5, 1.0)
    colours = random.uniform(0.0, 1.0, (3, channels)) if channels > 1 else np.ones((3, 1))
    background = random.uniform(0.0, 0.3, channels)
    bright = 1 - background if channels == 1 else np.clip(colours[0] * 0.5 + 0.5, 0, 1) - background
    image = background[:, None, None] + contrast * bright[:, None, None] * ink
    image += 0.5 * colours[1][:, None, None] * piece * (1 - ink) + 0.5 * colours[2][:, None, None] * clutter * (1 - ink)
    image += 0.06 * random.standard_normal(image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _placed(
    glyph: Image.Image, size: int, random: np.random.Generator, *, shift: float, offset: complex = 0
) -> Image.Image:
    """Returns a glyph as an image of `size`, by one random affine map: rotation ±15°, shear ±.2, scale .7-1.1, shift.

    Shifts are in pixels of the image: `offset`, and up to `shift` more either way.
    """
    angle, shear = np.deg2rad(random.uniform(-15, 15)), random.uniform(-0.2, 0.2)
    scale = GLYPH / size / random.uniform(0.7, 1.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = scale * turn @ np.array([[1, shear], [0, 1]])
    centre = np.full(2, size / 2) + random.uniform(-shift, shift, 2) + (offset.real, offset.imag)
    start = np.full(2, GLYPH / 2) - inverse @ centre
    row_x, row_y = inverse
    matrix = (row_x[0], row_x[1], start[0], row_y[0], row_y[1], start[1])
    return glyph.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
