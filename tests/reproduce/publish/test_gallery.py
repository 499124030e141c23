"""The gallery holds what was measured, small, and the README tells the same verdicts."""

import errno
import functools
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from three_factors.reproduce.contents import CONTENTS, load
from three_factors.reproduce.engine.definition import Contents
from three_factors.reproduce.engine.gallery import main
from three_factors.reproduce.engine.options import InputError
from three_factors.reproduce.engine.publish import gallery

CLAIM = {
    "id": "ab",
    "claim": "a | b",
    "value": 0.012,
    "low": 0.0,
    "high": 0.02,
    "n": 4,
    "paper": None,
    "verdict": "supported",
    "note": "",
    "data": "fashionmnist",
    "unit": "share",
    "control_of": "",
    "primary": True,
    "look": 1,
    "rule": {"kind": "direction", "sign": 1, "smallest": 0.005, "null": 0.0},
}


@functools.cache
def noisy(size):
    Image.effect_noise(size, 40).convert("RGB").save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A README and a gallery of the test's own; results of Figure 1 with a wide, noisy picture."""
    readme, folder = tmp_path / "README.md", tmp_path / "gallery"
    folder.mkdir()
    readme.write_text("before\n" + "\nold\n".join(gallery.MARKERS) + "\nafter\n")
    monkeypatch.setattr(gallery, "README", readme)
    monkeypatch.setattr(gallery, "GALLERY", folder)
    monkeypatch.setattr(gallery, "is_current", lambda *_: True)
    results = tmp_path / "results" / "fig1" / "quick"
    results.mkdir(parents=True)
    for name, size in {"fig1": (2000, 1000), "fig1-controls": (20, 10)}.items():
        (results / f"{name}.png").write_bytes(noisy(size))
    (results / "table.csv").write_text("label,seed\n")
    (results / "claims.json").write_text(
        json.dumps([CLAIM, CLAIM | {"id": "c", "control_of": "ab", "verdict": "estimated", "primary": False}])
    )
    provenance = {
        "missing": [],
        "seconds": 250.0,
        "data": {"name": "fashionmnist", "own": True},
        "reductions": [],
        "hardware": "x",
        "commit": "abc",
        "uncommitted_changes": True,
        "runs": {"a": "0" * 16},
    }
    (results / "provenance.json").write_text(json.dumps(provenance))
    return readme, folder, results


def make(results, **options):
    gallery.write(gallery._read(gallery.GalleryOptions(results.parents[1], **options), CONTENTS.load("fig1")))


def test_pictures_shrink_and_the_table_stands_between_the_markers(places):
    readme, folder, results = places
    make(results)
    with Image.open(io.BytesIO((folder / "fig1.png").read_bytes())) as picture:
        assert picture.size == (1500, 750)
        assert len(picture.getcolors()) <= gallery.COLOURS
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "- 1 primary claims about trained networks, at quick scale, without their arms: 1 supported.\n" in text
    page = (folder / "README.md").read_text()
    row = next(line for line in page.splitlines() if "[fig1]" in line)
    hours = json.loads(gallery.PAPER_SCALE.read_text())["hours"]["fig1"]
    told = f"| quick | 1 supported | `reproduce/fig1.py --data fashionmnist` | 4.2 min | {hours:.0f} h |"
    assert told in row
    assert (folder / gallery.FOREST).read_bytes()[:4] == b"\x89PNG"
    assert json.loads((folder / "fig1" / "quick" / "claims.json").read_text())[0] == CLAIM
    assert (folder / "fig1" / "quick" / "table.csv").read_text() == "label,seed\n"
    make(results)
    assert readme.read_text() == text
    assert "a \\| b" in (folder / "README.md").read_text()
    assert "1.20 [0.00, 2.00] pp" in (folder / "README.md").read_text()
    assert "commit abc and changes." in (folder / "README.md").read_text()


def test_an_incomplete_figure_and_a_gallery_too_large_are_refused_and_nothing_is_written(places, monkeypatch):
    readme, folder, results = places
    before = readme.read_text()
    monkeypatch.setattr(gallery, "LIMIT", 1000)
    with pytest.raises(InputError, match=r"--out: the pictures take .* more than 1000"):
        make(results)
    told = json.loads((results / "provenance.json").read_text())
    (results / "provenance.json").write_text(json.dumps(told | {"missing": ["eta 0.1 seed 0"]}))
    with pytest.raises(InputError, match="misses 1 runs"):
        make(results)
    (results / "provenance.json").write_text(json.dumps(told))
    monkeypatch.setattr(gallery, "is_current", lambda *_: False)
    with pytest.raises(InputError, match="is of other settings"):
        make(results)
    assert readme.read_text() == before
    assert not list(folder.iterdir())


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


HARMS = {
    "half": (halve, "is damaged ("),
    "empty": (empty, "is empty"),
    "absent": (lambda file: file.unlink(), "is missing"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["fig1.png", "fig1-controls.png", "table.csv", "claims.json", "provenance.json"])
def test_a_damaged_figure_is_refused_in_one_line_with_exit_2_and_nothing_is_written(places, name, harm, capsys):
    readme, folder, results = places
    before, (do, words) = readme.read_text(), HARMS[harm]
    do(results / name)
    with pytest.raises(SystemExit) as ended:
        main("", Contents(("fig1",), ("fig1",), load), ["--out", str(results.parents[1])])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --out: '{results / name}' {words}")
    assert line.endswith(f"; python reproduce/fig1.py --scale quick --out {results.parents[1]} makes it again")
    assert readme.read_text() == before
    assert not list(folder.iterdir())


def test_a_full_disk_is_told_in_one_line_with_exit_1(places, monkeypatch, capsys):
    *_, results = places

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(gallery, "write_bytes", full)
    with pytest.raises(SystemExit) as ended:
        main("", Contents(("fig1",), ("fig1",), load), ["--out", str(results.parents[1])])
    assert ended.value.code == 1
    assert re.fullmatch(r"error: .*/fig1.png: No space left on device; .*\n", capsys.readouterr().err)


def test_nothing_is_written_unless_all_of_it_can_be_made(places, monkeypatch):
    readme, folder, results = places
    before = readme.read_text()
    (broken := results / "paper_scale.json").write_text("{")
    monkeypatch.setattr(gallery, "PAPER_SCALE", broken)
    with pytest.raises(ValueError, match="Expecting"):
        make(results)
    assert readme.read_text() == before
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ("{}", "it is no list of claims"),
        ("[7]", "claim 0 has no fields"),
        (json.dumps([CLAIM, {"id": "c"}]), "claim 1 lacks claim"),
        (json.dumps([CLAIM | {"value": "1.2"}]), "claim 0 has value '1.2'"),
    ],
)
def test_claims_of_another_shape_are_refused(places, claims, words):
    *_, results = places
    (results / "claims.json").write_text(claims)
    with pytest.raises(InputError, match=re.escape(f"claims.json' is damaged ({words})")):
        make(results)


@pytest.mark.parametrize("place", ["fig1", "fig1/quick"])
def test_a_file_in_the_place_of_a_figure_is_refused(places, place):
    *_, results = places
    taken = results.parents[1] / place
    shutil.rmtree(taken)
    taken.write_text("")
    with pytest.raises(InputError, match=f"--out: '{taken}' is no folder"):
        make(results)


def test_the_highest_scale_is_shown_with_its_arms_and_the_lower_ones_behind_it(places):
    readme, folder, results = places
    for name in ("paper", "paper-time"):
        shutil.copytree(results, results.parent / name)
    mixed = CLAIM | {"quantity": "g at equal epochs", "value": 0.9, "unit": ""}
    (results.parent / "paper-time" / "claims.json").write_text(json.dumps([mixed | {"verdict": "not supported"}]))
    ps = {"confidence": 0.95, "p_support": 0.041, "p_refute": 0.9, "low": -0.01}
    (results / "claims.json").write_text(json.dumps([CLAIM | {"verdict": "inconclusive", "word": "undecided"} | ps]))
    make(results)
    page = (folder / "README.md").read_text()
    shown, behind = page.split("<details><summary>At quick scale</summary>")
    assert "| falls: time 0.9 [0, 0.02] not supported |" in shown
    assert "| undecided (support: p 0.041, at most 0.025 needed) |" in behind
    assert "| undecided" not in shown
    told = readme.read_text()
    assert "- 1 primary claims about trained networks, at paper scale, without their arms: 1 supported.\n" in told
    assert "(arms): of 1 seen ones 0 survive it, 1 fall, 0 are open; of the other 0, 0 fall.\n" in told
    assert (folder / gallery.INDICES).read_bytes()[:4] == b"\x89PNG"
    for place in ("paper", "paper-time", "quick"):
        assert (folder / "fig1" / place / "table.csv").is_file()


def test_results_in_another_precision_than_the_scales_are_shown_where_they_are_asked_for(places):
    _, folder, results = places
    told = json.loads((results / "provenance.json").read_text())
    for name in ("paper-float32", "paper-time-float32"):
        shutil.copytree(results, results.parent / name)
        (results.parent / name / "provenance.json").write_text(json.dumps(told | {"precision": "float32"}))
    make(results)
    assert not (folder / "fig1" / "paper-float32").exists()
    make(results, precision="float32")
    for place in ("paper-float32", "paper-time-float32", "quick"):
        assert (folder / "fig1" / place / "table.csv").is_file()
    command = "`reproduce/fig1.py --scale paper --data fashionmnist --precision float32`"
    assert command in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="--precision: 'float16' is not one of float32, tf32, bf16"):
        make(results, precision="float16")


def test_a_small_picture_has_the_colours_of_the_large_one():
    """Lines of many shades beside large areas and letters in grey."""
    random = np.random.default_rng(0)
    pixels = np.full((500, 1000, 3), 255, dtype=np.uint8)
    grey = random.integers(0, 256, (100, 1000, 1), dtype=np.uint8)
    pixels[:100] = grey
    shades = random.integers(0, 256, (40, 3), dtype=np.uint8)
    for i, shade in enumerate(shades):
        pixels[110 + 9 * i, 200:230] = shade
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    with Image.open(io.BytesIO(gallery.small(buffer.getvalue()))) as image:
        found = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(found - pixels).max() <= 24
