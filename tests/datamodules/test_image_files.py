"""Images from files: folders, MNIST as it is published, caches, downloads; what is damaged is named."""

import gzip
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from tests.images import image_folder
from three_factors.datamodules import (
    CIFAR10DataModule,
    ImageFolderDataModule,
    sources,
)
from three_factors.datamodules.prepared import cached, prepare
from three_factors.datamodules.sources import DamagedData, DataError


def test_data_that_are_nowhere_are_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="no cifar10 in"):
        CIFAR10DataModule(tmp_path, download=False).prepare_data()
    with pytest.raises(DataError, match="'imagenet' is none of"):
        prepare("imagenet", tmp_path)


def test_an_image_folder_is_read_once_and_again_when_it_changes(tmp_path):
    for part in ("train", "test"):
        for shade, name in enumerate(("dark", "light")):
            (tmp_path / "shades" / part / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (32, 32), (200 * shade + i,) * 3).save(tmp_path / "shades" / part / name / f"{i}.png")
    first = prepare("shades", tmp_path)
    assert (first.train, first.test, first.classes, first.channels) == (8, 8, 2, 3)
    assert first.arrays()["train_labels"].tolist() == [0] * 4 + [1] * 4
    assert cached("shades", tmp_path) == first
    Image.new("RGB", (32, 32), (99, 0, 0)).save(tmp_path / "shades" / "train" / "dark" / "9.png")
    assert cached("shades", tmp_path) is None
    second = prepare("shades", tmp_path)
    assert (second.train, second.fingerprint != first.fingerprint) == (9, True)
    data = ImageFolderDataModule("shades", tmp_path, validation=2)
    data.setup()
    assert data.examples == 7
    (tmp_path / "shades" / "train" / "dark" / "9.png").write_bytes(b"broken")
    with pytest.raises(DamagedData, match=r"9\.png"):
        prepare("shades", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "another size", "empty", "a link to nowhere"])
def test_a_damaged_image_is_named(damage, tmp_path):
    victim = image_folder(tmp_path / "pets", per_class=1) / "train" / "dog" / "3.png"
    if damage == "another size":
        Image.new("RGB", (8, 8)).save(victim)
    elif damage == "a link to nowhere":
        victim.unlink()
        victim.symlink_to(tmp_path / "nowhere")
    else:
        content = {"truncated": victim.read_bytes()[:100], "corrupt": b"no image at all", "empty": b""}
        victim.write_bytes(content[damage])
    with pytest.raises(DataError, match=victim.name):
        prepare("pets", tmp_path)


def test_pixels_of_8_bits_keep_their_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("THREE_FACTORS_CACHE", str(tmp_path / "cache"))
    image_folder(tmp_path / "pets", size=8, per_class=1)
    assert prepare("pets", tmp_path).fingerprint == "c7dd14a60fa495a4"  # run keys have it


def grey(folder, pixels, ending="png"):
    for part in ("train", "test"):
        for name in ("healthy", "ill"):
            (folder / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(folder / part / name / f"0.{ending}")


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_of_16_bits_of_grey_the_upper_8_are_taken(order, tmp_path):
    pixels = np.linspace(0, 65535, 64).reshape(8, 8).astype(order)
    grey(tmp_path / "rays", pixels, "tif")
    decoded = sources.find("rays", tmp_path).decode()
    assert decoded["train_images"].dtype == np.uint8
    assert (decoded["train_images"] == pixels // 256).all()


@pytest.mark.parametrize(("kind", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_pixels_of_32_bits_are_refused(kind, mode, tmp_path):
    grey(tmp_path / "rays", np.ones((8, 8), kind), "tif")
    with pytest.raises(DamagedData, match=rf"^data-dir: '.*0\.tif' has pixels of 32 bits \(mode '{mode}'\)"):
        sources.find("rays", tmp_path).decode()


def test_a_truncated_mnist_file_is_damaged_data_not_missing_data(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\x00\x00\x08\x03\x00")
    with pytest.raises(DamagedData, match=r"mnist in .* is damaged"):
        prepare("mnist", tmp_path)


def mnist(folder, packed=()):
    """Writes a small MNIST, the files named in `packed` gzipped only."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        pixels = random.integers(0, 255, (count, 28, 28), dtype=np.uint8).tobytes()
        labels = random.integers(0, 10, count, dtype=np.uint8).tobytes()
        images = np.array([0x803, count, 28, 28], ">i4").tobytes() + pixels
        for name, content in (
            (f"{part}-images-idx3-ubyte", images),
            (f"{part}-labels-idx1-ubyte", np.array([0x801, count], ">i4").tobytes() + labels),
        ):
            if name.split("-")[1] in packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


@pytest.mark.parametrize("packed", [("images", "labels"), ("images",)])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "FashionMNIST"])
def test_an_mnist_is_taken_as_it_is_published_gzipped(place, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("THREE_FACTORS_CACHE", str(tmp_path / "cache"))
    mnist(tmp_path / "plain" / "FashionMNIST" / "raw")
    mnist(tmp_path / "gzipped" / place, packed)
    plain, found = (prepare("fashionmnist", tmp_path / where) for where in ("plain", "gzipped"))
    assert (found.train, found.test, found.fingerprint) == (60, 20, plain.fingerprint)
    assert len(list((tmp_path / "gzipped").rglob("*-ubyte"))) == 4 - 2 * len(packed)  # nothing is unpacked there


def test_a_truncated_gzipped_file_is_named(tmp_path):
    mnist(tmp_path / "MNIST" / "raw", ("images", "labels"))
    victim = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(DamagedData, match=r"t10k-images-idx3-ubyte\.gz in .* is damaged"):
        prepare("mnist", tmp_path)


def test_a_damaged_cache_is_prepared_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("THREE_FACTORS_CACHE", str(tmp_path / "cache"))
    image_folder(tmp_path / "pets", per_class=2)
    first = prepare("pets", tmp_path)
    for damage in ("manifest.json", "train_images.npy"):
        (tmp_path / "cache" / first.folder.rsplit("/", 1)[1] / damage).write_bytes(b"{")
        assert cached("pets", tmp_path) is None
        assert prepare("pets", tmp_path) == first


def test_processes_that_prepare_a_data_set_at_once_make_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("THREE_FACTORS_CACHE", str(tmp_path / "cache"))
    image_folder(tmp_path / "pets", per_class=2)
    first = prepare("pets", tmp_path)
    made = Path(first.folder)
    (made / "manifest.json").unlink()  # so that it is made again
    broken_off = made.with_name(f".{made.name}.draft-1")  # by a kill
    broken_off.mkdir()
    decode, decoded, late = sources._decode_image_folder, [], []
    other = threading.Thread(target=lambda: late.append(prepare("pets", tmp_path)))

    def decoding(folder):
        decoded.append(folder)
        other.start()  # a second time would raise
        with pytest.raises(Timeout):
            FileLock(made.with_name(f".{made.name}.lock"), timeout=0).acquire()
        return decode(folder)

    monkeypatch.setattr(sources, "_decode_image_folder", decoding)
    assert prepare("pets", tmp_path) == first
    other.join()
    assert (late, len(decoded)) == ([first], 1)
    assert {file.name for file in made.parent.iterdir()} == {made.name, f".{made.name}.lock"}


def test_a_download_that_another_process_made_meanwhile_is_taken(tmp_path, monkeypatch):
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    (place / "batch").write_text("of another process")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda *_, **__: pytest.fail("it is there"))
    sources.download("cifar10", tmp_path)
    assert (place / "batch").read_text() == "of another process"


def test_a_server_that_hangs_ends_in_one_error(tmp_path, monkeypatch):
    ended = threading.Event()

    def never(*_, **__):
        ended.wait(30)  # not for ever, where nobody gives it up
        raise OSError

    monkeypatch.setattr(sources.socket, "create_connection", never)
    monkeypatch.setattr(sources, "REACH_TIMEOUT", 0.1)
    monkeypatch.setattr(sources.urllib.request, "getproxies", dict)
    try:
        with pytest.raises(DataError, match=r"www.cs.toronto.edu cannot be reached") as told:
            cached("cifar10", tmp_path)
    finally:
        ended.set()
    assert "no answer in 0.1 s" in str(told.value.__cause__)
