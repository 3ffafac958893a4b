"""What the report shows beside the comparison: single terms, several balancers, alternating load."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from vllama_balancer.simulate import ablation, alternating, several
from vllama_balancer.simulate.report import Section
from vllama_balancer.simulate.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.simulate.archive import Archive
    from vllama_balancer.simulate.grid import Grid, Progress


def sections(archive: Archive, progress: Progress, *, is_quick: bool) -> list[Section]:
    """Computes them all, or takes from the archive what has been computed."""

    def studied(study: Callable[[Grid, Progress], Table], grid: Grid) -> Section:
        if is_quick:
            grid = replace(grid, workers=(4,), seeds=(0,))
        kept = archive.get(study.__name__, [is_quick], lambda: asdict(study(grid, progress)))
        progress(f"beside the comparison: {kept['title']}")
        return Section(Table(kept["title"], kept["note"], tuple(kept["header"]), tuple(map(tuple, kept["rows"]))))

    histories = [alternating.play(scene) for scene in alternating.SCENES]
    return [
        studied(ablation.weighed, ablation.GRID),
        studied(ablation.specialists, ablation.SPECIAL_GRID),
        studied(several.shared, several.GRID),
        Section(alternating.table(histories), tuple(alternating.chart(history) for history in histories)),
    ]
