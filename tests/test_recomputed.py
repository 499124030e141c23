"""What the judge finds, found once more: from table.csv alone, by code that knows nothing of the judge's."""

import pytest

from tests.recomputed import recomputed
from tests.rejudged import judged

IDS = {  # in the recomputation -> figure, claim
    **{f"fig1.{name}": ("fig1", name) for name in ("norm", "accuracy", "wider")},
    "fig4.cyclic.share": ("fig4", "cyclic.share"),
    "fig4.constant.share": ("fig4", "constant.share"),
    "fig8.location": ("fig8", "location"),
    "fig8.slope": ("fig8", "slope"),
    "fig15.norm": ("fig15", "norm"),
    "fig15.effective": ("fig15", "effective"),
    "fig16.tension": ("fig16", "tension.alike"),
    "table1.higher": ("table1", "higher"),
    "table1.alike": ("table1", "alike"),
}


@pytest.mark.slow
def test_twelve_claims_of_six_figures_have_the_same_estimates_and_intervals(tmp_path):
    ours = {}
    for name in dict.fromkeys(figure for figure, _ in IDS.values()):
        table, claims = judged(name)
        table.frame.to_csv(tmp_path / f"{name}.csv", index=False)
        ours[name] = {claim.id: claim for claim in claims}
    for name, (value, low, high) in recomputed(tmp_path).items():
        figure, claim = IDS[name]
        found = ours[figure][claim]
        assert found.confidence == 0.95
        assert (found.value, found.low, found.high) == (
            pytest.approx(value, rel=1e-6),
            low if low is None else pytest.approx(low, rel=1e-6),
            high if high is None else pytest.approx(high, rel=1e-6),
        ), name
