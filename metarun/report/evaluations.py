"""The evaluations that `metarun evaluate` stored in a run's folder, each beside the run's own result."""

import shlex
from pathlib import Path
from typing import Any

from metarun.errors import DamagedFile
from metarun.files import read_json
from metarun.report.runs import Run
from metarun.run_folder.shapes import evaluation_mismatch


def evaluations_of(run: Run) -> list[Run]:
    """The same training under other tests: as runs whose configuration and result are those of the evaluation.

    A file that cannot be read is a run without a configuration, which a report names and leaves out.
    """
    if not run.config:
        return []
    return [_evaluation(run, file) for file in sorted((run.path / "evaluations").glob("*.json"))]


def _evaluation(run: Run, file: Path) -> Run:
    state, detail = "finished", ""
    content: dict[str, Any] = {}
    try:
        content = read_json(file, evaluation_mismatch)
    except (OSError, DamagedFile) as error:
        reason = error.reason if isinstance(error, DamagedFile) else error
        state, detail = "damaged", f"it cannot be read ({reason})"
    config, overrides = content.get("config", {}), tuple(map(str, content.get("overrides", ())))
    # The checksums of the examples are known of the data that the run was trained on.
    has_its_data = config.get("data") == run.config.get("data") and config.get("dataset") == run.config.get("dataset")
    return Run(
        path=run.path,
        config=config | {"seed": run.config.get("seed")} if config else {},
        result={"reference": None} | content if content else None,
        state=state,
        detail=detail,
        provenance=run.provenance if has_its_data else {},
        command=shlex.join(["metarun", "evaluate", str(run.path), *overrides]),
        overrides=(*run.overrides, *overrides),
        changed=file.stat().st_mtime,
        evaluation=file,
        trained=run,
    )
