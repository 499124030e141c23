"""The W&B workspace of the mirrored runs, as code: its panels come from the mirror's own names."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.options import InputError, flag, parse, refuse
from three_factors.reproduce.engine.watch import mirror as wandb_mirror
from three_factors.reproduce.engine.watch.mirror import ACCURACIES, CURVATURE, LOSSES, NOISE, PICTURE, STEP_LOSS, TABLES

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import LinePlot
    from wandb_workspaces.workspaces import Section, Workspace

NAME = "Three factors"
MAX_RUNS = 100  # lines a panel; W&B's default of 10 is less than the settings of a grid
WAIT = 3 * wandb_mirror.TIMEOUT  # seconds; W&B itself gives each of its questions about a TIMEOUT
INSTALL = "wandb-workspaces is not installed: pip install -e '.[dashboard]'"


@dataclass(frozen=True)
class DashboardOptions:
    """Tells which W&B project gets the workspace."""

    entity: str = flag("", "W&B user or team that the project belongs to", "NAME")
    project: str = flag(wandb_mirror.PROJECT, "W&B project (default: three-factors)", "NAME")
    dry_run: bool = flag(False, "print sections and panels; no network, no login")

    def __post_init__(self) -> None:
        if not self.dry_run and not self.entity:
            raise InputError("--entity: '' is no W&B user or team; name the one that the project belongs to")
        for name, value in (("entity", self.entity or "any"), ("project", self.project)):
            if not re.fullmatch(r"[\w.-]{1,128}", value):
                raise InputError(f"--{name}: {value!r} is not a name of letters, digits, '-', '_' and '.'")


def main(doc: str, arguments: list[str] | None = None) -> NoReturn:
    """Saves or prints the workspace and ends the process: 0 done, 1 W&B refused, 2 bad input, 130 interrupted."""
    interrupts.listen()
    os.environ.setdefault("WANDB_SILENT", "true")  # what it says is said below
    options = parse(doc, arguments, DashboardOptions)
    try:
        if not options.dry_run and not wandb_mirror.logged_in():
            raise InputError(f"--entity: {options.entity!r} {wandb_mirror.LOGIN}")
        workspace = build(options.entity, options.project)
    except InputError as error:
        refuse(error)
    if options.dry_run:
        print("\n".join(describe(workspace)))
        raise SystemExit(0)
    try:
        url = save(workspace)
    except KeyboardInterrupt:
        exit_at_once(130, "interrupted; the workspace may not have been saved")
    except Exception as error:  # whatever W&B and the network may raise
        exit_at_once(1, f"error: W&B did not save the workspace ({wandb_mirror.brief(error)})")
    print(f"saved: {url}")
    raise SystemExit(0)


def save(workspace: Workspace) -> str:
    """Saves a new view and returns its address. Raises what W&B raises, TimeoutError if it takes longer than WAIT."""
    saving = ThreadPoolExecutor(max_workers=1).submit(lambda: str(workspace.save().url))
    return saving.result(timeout=WAIT)


def exit_at_once(status: int, why: str) -> NoReturn:
    """Ends the process at once: W&B's own exit may wait for the server again, without a limit."""
    print(why, file=sys.stderr, flush=True)
    os._exit(status)


def build(entity: str, project: str) -> Workspace:
    """Returns the workspace, not saved. Raises InputError where the library is missing."""
    try:
        from wandb_workspaces import expr, workspaces
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "wandb_workspaces":
            raise
        raise InputError(INSTALL) from error
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections(),
        settings=workspaces.WorkspaceSettings(x_axis="epoch", max_runs=MAX_RUNS),
        # The panels follow this grouping: a line a setting. Only the runs of one figure at one scale are averaged.
        runset_settings=workspaces.RunsetSettings(groupby=[expr.Metric("Group"), expr.Config("label")]),
    )


def sections() -> list[Section]:
    """Returns every metric that the mirror logs is in one of them."""
    from wandb_workspaces.reports import v2
    from wandb_workspaces.workspaces import Section, SectionPanelSettings

    tables = [v2.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    panels: dict[str, list[Any]] = {
        "noise and schedules": [line([name], x=x) for x in ("epoch", "t_eta") for name in NOISE],
        "curvature": [line(list(names), log=True) for names in CURVATURE],
        "accuracy and loss": [
            *(line([name]) for name in ACCURACIES),
            *(line([name], log=True) for name in LOSSES),
            line([STEP_LOSS], x="step", log=True),
        ],
        "figures and claims": [v2.MediaBrowser(title=PICTURE, media_keys=[PICTURE], num_columns=1), *tables],
    }
    axis = SectionPanelSettings(x_axis="epoch")
    return [Section(name=name, panels=found, is_open=True, panel_settings=axis) for name, found in panels.items()]


def line(names: list[str], x: str = "epoch", log: bool = False) -> LinePlot:
    """Returns a line plot: of each group the mean over the seeds, and their range."""
    from wandb_workspaces.reports import v2

    return v2.LinePlot(
        title=names[0] if x == "epoch" else f"{names[0]} against {x}",
        x=x,
        y=list(names),
        log_y=log,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def describe(workspace: Workspace) -> list[str]:
    """Returns lines of text: each section, and under it its panels."""
    lines = [f"workspace '{workspace.name}' of project {workspace.entity or 'ENTITY'}/{workspace.project}"]
    for section in workspace.sections:
        lines += [f"{section.name}:", *(f"  {_describe(panel)}" for panel in section.panels)]
    return lines


def _describe(panel: Any) -> str:
    kind = type(panel).__name__
    if kind == "LinePlot":
        return f"{', '.join(panel.y)} against {panel.x}" + (" (log)" if panel.log_y else "")
    return f"image: {', '.join(panel.media_keys)}" if kind == "MediaBrowser" else f"table: {panel.table_name}"
