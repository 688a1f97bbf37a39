"""The commands convert, for files of an earlier version, and rejudge, which judges attempts again."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from router.cli.options import AllowCode, say
from router.errors import InvalidFile

_SPELT = ("tuning.json", "judged.jsonl", "evaluation.json")  # files in which arms are written as text


def convert(
    old: Annotated[Path, typer.Argument(help="A bundle's folder, an attempts file, a policy.json or an engine.json.")],
    out: Annotated[Path, typer.Option(help="What to write: a folder for a folder, a file for a file.")],
) -> None:
    """Convert files of version 0.1 (bundle format 2) to this version.

    engine.json becomes models.json, with the models named small and large. The arm larger_model(n=12) becomes
    single(model=large). Measurements stay the same, digit for digit. Files whose format did not change are copied.
    """
    if not old.exists():
        raise InvalidFile(f"{old} does not exist")
    if out.exists():
        raise InvalidFile(f"{out} exists already; write to another --out")
    if old.is_dir():
        for file in sorted(path for path in old.rglob("*") if path.is_file()):
            _convert_file(file, out / file.relative_to(old))
        for folder in [old, *(path for path in old.rglob("*") if path.is_dir())]:
            _finish(folder, out / folder.relative_to(old))
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        _convert_file(old, out)
    typer.echo(f"wrote {out}")


def _convert_file(file: Path, out: Path) -> None:
    from router.bundle import convert as to_format_3

    out.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        _convert_attempts(file, out)
    elif file.name == "manifest.json":
        pass  # written last, see _finish
    elif file.suffix == ".json":
        document = _read(file)
        if {"generator", "verifier"} <= set(document):
            name = "models" + file.name.removeprefix("engine")
            out = out.with_name(name) if file.name.startswith("engine") else out
            document = to_format_3.setup(document)
        elif "ladder" in document:
            document = to_format_3.policy(document, _worth(file.parent))
            out.write_text(_policy_text(document))
            return
        elif "comparison" in document and "features" not in document:  # training.json
            from router.training.difficulty import dumps

            hidden = str(document["chosen"]).startswith("hidden")
            out.write_text(dumps({**document, "features": "hidden" if hidden else "text"}))
            return
        elif file.name in _SPELT:
            out.write_text(json.dumps(to_format_3.arms(document), indent=1) + "\n")
            return
        else:
            shutil.copy(file, out)
            return
        out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        shutil.copy(file, out)


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{file}: {error}") from error
    return document if isinstance(document, dict) else {}


def _worth(folder: Path) -> dict[str, float]:
    """Return the worth of the models in a policy's folder; an old policy alone does not say which models it is for."""
    engine = next((path for path in (folder / "engine.json", folder / "manifest.json") if path.exists()), None)
    old = _read(engine) if engine else {}
    if not old.get("larger"):
        return {"small": 1.0}
    return {"small": 1.0, "large": old["larger"]["parameters"] / old["generator"]["parameters"]}


def _policy_text(document: dict[str, Any]) -> str:
    from router.policy.table import Policy

    return Policy.loads(json.dumps(document)).dumps()


def _convert_attempts(file: Path, out: Path) -> None:
    import pandas as pd

    from router.attempts.schema import SCHEMA, write_attempts
    from router.bundle.convert import arms

    frame = pd.read_parquet(file)
    if not {"prompt_id", "arm", "text"} <= set(frame.columns):
        shutil.copy(file, out)
        return
    frame["arm"] = frame["arm"].map({arm: arms(arm) for arm in frame["arm"].unique()})
    frame = frame.assign(**{name: None for name in SCHEMA.names if name not in frame})
    write_attempts(frame, out)


def _finish(old: Path, folder: Path) -> None:
    """Write the manifest of a converted bundle, with its origin and the digests of its files now."""
    if not (old / "manifest.json").is_file():
        return
    from router.bundle.manifest import FORMAT_VERSION, Manifest, digests, write_manifest
    from router.bundle.setup import read_setup
    from router.training.difficulty import read_training

    manifest, setup, training = _read(old / "manifest.json"), read_setup(folder), read_training(folder)
    write_manifest(
        folder,
        Manifest(
            FORMAT_VERSION,
            setup,
            statistic=training.statistic,
            edges=training.edges,
            files=digests(folder, setup.adapters),
            libraries=manifest["libraries"],
            features=training.features,
            provenance={**manifest["provenance"], "converted_from_format": manifest["format_version"]},
        ),
    )


def rejudge(
    attempts: Annotated[list[Path], typer.Argument(help="Attempts files, whose texts are judged again.")],
    out: Annotated[Path, typer.Option(help="Attempts file to write, Parquet.")],
    *,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Task that finds and compares the answers, by name or as module:object. Repeatable where prompts name "
            "their task; the first is for prompts that name none.  [default: math]"
        ),
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Prompts files with references, inputs and tasks, instead of the attempts' own. A prompt that is in "
            "none of them keeps its own."
        ),
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Find, compare and judge again the answers in existing attempts' texts."""
    import asyncio

    from router.attempts.files import check_out
    from router.attempts.prompts import read_prompts
    from router.attempts.rejudge import missing
    from router.attempts.rejudge import rejudge as judge_again
    from router.attempts.schema import read_attempts, write_attempts
    from router.tasks import Tasks

    check_out(out)
    frame = read_attempts(attempts, say=say)
    given = [problem for path in prompts or () for problem in read_prompts(path)]
    problems = {problem.id: problem for problem in given} if prompts else None
    tasks = Tasks(tuple(task or ["math"]), allow_code)
    tasks.check()
    judged = asyncio.run(judge_again(frame, tasks, problems))
    write_attempts(judged, out)
    if problems is not None and (unknown := missing(frame, problems)):
        say(
            f"{len(unknown)} of {frame['prompt_id'].nunique()} prompts are not in the prompts files, first "
            f"{unknown[0]!r}: they keep their own reference, inputs and task"
        )
    known = judged["correct"].notna()
    right = f"{judged.loc[known, 'correct'].astype(float).mean():.1%} right of " if known.any() else ""
    typer.echo(
        f"{len(judged)} attempts: {judged['answer'].isna().mean():.1%} without an answer, {right}{known.sum()} judged, "
        f"{int((judged['answer'].fillna('') != frame['answer'].fillna('')).sum())} answers changed"
    )
    typer.echo(f"wrote {out}")
