"""A tree of image files to read."""

import numpy as np
from PIL import Image


def image_folder(folder, size=32, per_class=60):
    random = np.random.default_rng(0)
    for part, count in (("train", per_class * 8), ("test", per_class * 4)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder
