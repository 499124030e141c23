"""The report shows what is on disk, from no network, and says what is not there."""

import base64
import html
import json
import re

import pytest

from tests.reproduce.publish.pages import CLAIM, NONE, SVG, arm, current, halve, report, results
from three_factors.reproduce.contents import CONTENTS
from three_factors.reproduce.engine.judge.claims import AT_EQUAL_EPOCHS
from three_factors.reproduce.engine.publish.forest import index_row, of_indices
from three_factors.reproduce.engine.publish.page import indices, write
from three_factors.reproduce.engine.report import ReportOptions, _run_missing


def test_every_g_at_equal_t_eta_is_in_one_picture():
    own, mixed = CLAIM | {"quantity": "g"}, CLAIM | {"quantity": "g at equal epochs"}
    assert indices([own, mixed, CLAIM], {}) == [own]
    mixed |= {"claim": f"g = 1{AT_EQUAL_EPOCHS}"}
    (found,) = indices([mixed], {"loss": [mixed], "time": [mixed, CLAIM]})
    assert found == mixed | {"claim": "g = 1, arm time"}
    assert [of["claim"] for of in indices([own], {"quench": [own]})] == [
        CLAIM["claim"],
        f"{CLAIM['claim']}, arm quench",
    ]
    assert indices([own | {"value": None}], {}) == []
    picture = of_indices([index_row("fig4", "quick", own | {"low": None})], "svg").decode()
    assert "eta/S^g decides" in html.unescape(picture)


@pytest.fixture
def page(tmp_path, monkeypatch):
    current(monkeypatch)
    controlled = CLAIM | {"id": "at", "claim": "at equal loss", "control_of": "wider", "verdict": "estimated"} | NONE
    unbounded = CLAIM | {"id": "share", "claim": "a share", "low": None, "high": None, "verdict": "inconclusive"}
    results(tmp_path, "fig1", CLAIM, controlled)
    results(
        tmp_path,
        "fig4",
        unbounded,
        CLAIM | {"value": 0.012, "low": 0.0, "high": 0.02, "unit": "share", "verdict": "not supported"},
    )
    file, entries, _ = write(CONTENTS, ReportOptions(out=tmp_path))
    assert [entry.name for entry in entries] == ["fig1", "fig4"]
    return file.read_text()


def test_every_claim_of_every_figure_there_is_on_the_page_with_its_verdict(page):
    for text in (
        "higher is <wider>",
        "at equal loss",
        "a share",
        "0.5 [0.2, 0.8]",
        "1.20 [0.00, 2.00] pp",
        "0.5 [unbounded]",
        "not supported",
        "5 seeds",
        "python fig1.py",
    ):
        assert html.escape(text) in page
    assert base64.b64encode(SVG).decode() in page
    assert "A 4-layer batch-norm MLP on FashionMNIST" in page  # the caption is the script's own


@pytest.mark.parametrize(
    ("value", "verdict", "word"),
    [(0.3, "supported", "survives"), (0.3, "inconclusive", "open"), (0.05, "not supported", "falls")],
)
def test_a_claim_survives_the_controls_where_it_holds_in_every_arm(tmp_path, monkeypatch, value, verdict, word):
    current(monkeypatch)
    results(tmp_path, "fig1", CLAIM, CLAIM | {"id": "other", "claim": "another"})
    arm(tmp_path, "time", CLAIM | {"value": value, "verdict": verdict})
    arm(tmp_path, "no-bn", CLAIM)
    file, (entry,), _ = write(CONTENTS, ReportOptions(out=tmp_path))
    assert [(claim["id"], sorted(arms), found) for claim, arms, found in entry.primary] == [
        ("wider", ["no-bn", "time"], word),
        ("other", [], "open"),
    ]
    overview = file.read_text().split('<section id="fig1">')[0]
    rows = re.findall(r"<tr>\n<td>.*?</tr>", overview, re.DOTALL)
    assert f"<summary>{word}</summary>" in rows[0]
    assert [len(re.findall("<li>", row)) for row in rows] == [2, 0]


@pytest.mark.parametrize(("asked", "value"), [(None, 0.5), ("float32", 0.75)])
def test_the_page_is_of_one_precision(asked, value, tmp_path, monkeypatch):
    current(monkeypatch)
    for place, precision, found in (("paper", "tf32", 0.5), ("paper-float32", "float32", 0.75)):
        for of, last in (("epochs", ""), ("time", "-time")):
            folder = place.replace("paper", f"paper{last}")
            results(tmp_path, "fig1", CLAIM | {"value": found}, scale=folder)
            file = tmp_path / "fig1" / folder / "provenance.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"arm": of, "precision": precision}))
    results(tmp_path, "theorem2", CLAIM | {"data": "simulation"}, scale="paper")  # which has none
    options = ReportOptions(out=tmp_path, scale="paper", precision=asked)
    _, entries, damaged = write(CONTENTS, options)
    assert damaged == []
    assert [entry.name for entry in entries] == ["fig1", "theorem2"]
    shown = [*entries[0].claims, *entries[0].arms["time"]]
    assert [claim["value"] for claim in shown] == [value, value]
    commands = []
    monkeypatch.setattr("three_factors.reproduce.engine.report._run", lambda command: commands.append(command) or 0)
    _run_missing(CONTENTS, options)
    assert not any("fig1.py" in word for command in commands for word in command)
    (tmp_path / "fig1" / "paper-time-float32" / "claims.json").unlink()
    assert len(write(CONTENTS, options)[2]) == (asked == "float32")


def test_an_undecided_claim_says_on_the_page_what_it_lacked(tmp_path, monkeypatch):
    current(monkeypatch)
    ps = {"p_support": 0.041, "p_refute": 0.9, "holm_support": 0.2, "holm_refute": 1.0}
    undecided = CLAIM | {"verdict": "inconclusive", "word": "undecided", "low": -0.2} | ps
    results(tmp_path, "fig1", undecided)
    arm(tmp_path, "time", undecided)
    page = write(CONTENTS, ReportOptions(out=tmp_path))[0].read_text()
    lacked = r'undecided</span>[^<]* <span class="soft">support: p 0\.041, at most 0\.025 needed</span>'
    assert len(re.findall(lacked, page)) == 3  # in the overview, there in the arm, and in the figure's table


def test_what_is_only_estimated_has_no_word_on_the_page(page):
    section = page.split('<section id="fig1">')[1].split("</section>")[0]
    assert "Estimated, without a word: 1" in section
    assert section.index("at equal loss") > section.index("Estimated, without a word")
    assert "at equal loss" not in page.split("<section")[0]


def test_all_primary_claims_are_drawn_on_common_axes(page):
    picture = base64.b64decode(
        re.search(r'alt="All primary claims[^"]*" src="data:image/svg\+xml;base64,([^"]+)', page)[1]
    )
    assert picture.startswith(b"<?xml")
    assert picture.count(b"<!-- fig") >= 3 or picture.count(b"fig1:") + picture.count(b"fig4:") >= 3


def test_results_of_other_settings_are_marked(page, tmp_path, monkeypatch):
    words = "Made with other settings"
    assert words not in page
    monkeypatch.undo()
    file, _, _ = write(CONTENTS, ReportOptions(out=tmp_path))
    assert file.read_text().count(words) == 2


def test_a_theory_scripts_formulas_are_mathml(tmp_path):
    results(tmp_path, "theorem2", CLAIM | {"data": "simulation"})
    file, _, _ = write(CONTENTS, ReportOptions(out=tmp_path))
    page = file.read_text()
    assert page.count("<math") == 2
    assert "<mfrac>" in page


def test_nothing_comes_from_the_network_and_what_is_absent_is_named(page):
    assert not re.findall(r"(?:src|href)=.?https?://", page)
    absent = re.search(r"No results yet: (.*?)\.<", page)[1].split(", ")
    assert set(absent) == set(CONTENTS.page) - {"fig1", "fig4"}


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("provenance.json", halve),
        ("claims.json", lambda file: file.write_bytes(b"")),
        ("claims.json", lambda file: file.unlink()),
        ("fig4.svg", halve),
        ("fig4.svg", lambda file: file.unlink()),
    ],
    ids=["half a provenance", "empty claims", "no claims", "half a picture", "no picture"],
)
def test_a_damaged_figure_is_named_with_exit_2_and_the_others_are_on_the_page(tmp_path, name, harm):
    results(tmp_path, "fig1", CLAIM)
    file = results(tmp_path, "fig4", CLAIM) / name
    harm(file)
    done = report(tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --out: '{file}' is ")
    assert "; python reproduce/fig4.py --scale quick" in line
    assert line.endswith(f" --out {tmp_path} makes it again")
    page = (tmp_path / "report-quick.html").read_text()
    assert html.escape(line.removeprefix("error: "), quote=False).replace("'", "&#39;") in page
    assert '<section id="fig1">' in page
    assert '<section id="fig4">' not in page
    assert "fig4" not in re.search(r"No results yet: (.*?)\.<", page)[1].split(", ")


def test_a_report_of_damaged_figures_alone_is_not_written(tmp_path):
    (results(tmp_path, "fig4", CLAIM) / "table.csv").unlink()
    done = report(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --out: '{tmp_path}/fig4/quick/table.csv' is missing; ")
    assert done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["fig4"]


def test_a_claim_does_not_survive_an_arm_that_cannot_be_read(tmp_path, monkeypatch):
    current(monkeypatch)
    own = CLAIM | {"data": "fashionmnist"}
    results(tmp_path, "fig1", own)
    arm(tmp_path, "time", own)
    halve(arm(tmp_path, "no-bn", own) / "claims.json")
    file, (entry,), (error,) = write(CONTENTS, ReportOptions(out=tmp_path))
    assert [word for _, _, word in entry.primary] == ["open"]
    assert "<li>no-bn: damaged" in file.read_text()
    assert "fig1.py --scale quick --arm no-bn --seeds 4 --out " in str(error)


def test_a_report_asked_for_one_data_set_leaves_out_what_is_damaged_of_another(tmp_path):
    results(tmp_path, "noise_only", CLAIM | {"data": "fashionmnist"})
    halve(results(tmp_path, "noise_only", CLAIM, scale="quick-cifar10") / "claims.json")
    assert write(CONTENTS, ReportOptions(out=tmp_path, data="fashionmnist"))[2] == []
    assert len(write(CONTENTS, ReportOptions(out=tmp_path))[2]) == 1
