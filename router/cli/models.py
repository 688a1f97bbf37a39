"""train-generator, train-reviser, train-verifier: adapters for the embedded model; merge: models out of them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import Overwrite, Seed, WrittenEngine, check_unfinished, unfinish
from router.errors import InvalidFile, InvalidRequest

Rank = Annotated[int, typer.Option(min=1, help="Of the LoRA adapter; one to go on from has its own.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples to a step; on a GPU ten times as many.")]


class Role(StrEnum):
    """Whose adapter."""

    generator = "generator"
    reviser = "reviser"
    verifier = "verifier"


def train_generator(
    examples: Annotated[Path, typer.Argument(help="JSON Lines: prompt, completion, and optionally earlier attempts.")],
    *,
    engine: WrittenEngine,
    overwrite: Overwrite = False,
    start: Annotated[Path | None, typer.Option(help="Adapter to go on from.  [default: a fresh one]")] = None,
    rank: Rank = 8,
    batch_size: BatchSize = 24,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate; it decays along a cosine.")] = 2e-3,
    seed: Seed = 0,
) -> None:
    """Fine-tune the engine's generator on worked solutions: a LoRA adapter of a few megabytes in the engine's folder.

    Minutes on a CPU. Start the same command again after an interruption: it goes on from the last checkpoint.
    """
    check_unfinished(engine, overwrite)
    from router.backends.in_process.weights import model_folder
    from router.bundle.models import read_engine
    from router.training import finetune
    from router.training.examples import read_examples

    generator = read_engine(engine).generator
    if generator.adapter is None:
        raise InvalidFile(f"{engine}/engine.json: generator.adapter is null; name the folder that the adapter goes to")
    worked = read_examples(examples)
    unfinish(engine)
    finetune.train_generator(
        worked,
        model_folder(generator.model),
        engine / generator.adapter,
        generator.template,
        start=start,
        rank=rank,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    typer.echo(f"wrote {engine / generator.adapter}")


def train_reviser(
    attempts: Annotated[list[Path], typer.Argument(help="Attempts files, on prompts that nothing is evaluated on.")],
    *,
    engine: WrittenEngine,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 24,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate; it decays along a cosine.")] = 1e-3,
    seed: Seed = 0,
) -> None:
    """Fine-tune the engine's reviser on chains of wrong attempts followed by a right one, starting from the generator.

    Resumes after an interruption.
    """
    check_unfinished(engine, overwrite)
    from router.attempts.schema import read_attempts
    from router.backends.in_process.weights import model_folder
    from router.bundle.models import read_engine
    from router.training import finetune
    from router.training.chains import chains

    generator = read_engine(engine).generator
    if generator.reviser is None:
        raise InvalidFile(f"{engine}/engine.json: generator.reviser is null; name the folder that the adapter goes to")
    examples = chains(read_attempts(attempts), seed=seed)
    unfinish(engine)
    finetune.train_generator(
        examples,
        model_folder(generator.model),
        engine / generator.reviser,
        generator.template,
        start=engine / generator.adapter if generator.adapter else None,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    typer.echo(f"wrote {engine / generator.reviser}, trained on {len(examples)} chains")


def train_verifier(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Attempts files to tell right steps from wrong ones in; or, for a likelihood verifier to begin with, "
            "JSON Lines of worked solutions as for train-generator, many more than the generator saw. On prompts that "
            "nothing is evaluated on."
        ),
    ],
    *,
    engine: WrittenEngine,
    overwrite: Overwrite = False,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Adapter to go on from; to rank attempts, one that was trained on worked solutions.  "
            "[default: the generator's]"
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with a new adapter, of --rank.")] = False,
    rank: Rank = 8,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Worked solutions to a step; of attempts, those at 8 prompts make a step.")
    ] = 24,
    solutions: Annotated[
        Path | None,
        typer.Option(
            help="Prompts file with worked solutions of the attempts' prompts; a step is right while it and all before "
            "it match.  [default: label a step with the share of right attempts among those that begin with it]"
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate; it decays along a cosine.")] = 1e-3,
    seed: Seed = 0,
) -> None:
    """Train the engine's verifier: a process reward model on labelled steps of sampled attempts, or a language model
    that knows the task better, first on worked solutions, then on ranking attempts.

    Judge it with `router judge` on attempts at other prompts before serving it. Resumes after an interruption.
    """
    check_unfinished(engine, overwrite)
    from router.attempts.prompts import read_prompts
    from router.attempts.schema import read_attempts
    from router.backends.in_process.weights import model_folder
    from router.bundle.models import read_engine
    from router.training import finetune, finetune_verifier, labels
    from router.training.examples import read_examples

    spec = read_engine(engine)
    kind = spec.verifier.kind
    if spec.verifier.adapter is None:
        raise InvalidFile(f"{engine}/engine.json: verifier.adapter is null; name the folder that the adapter goes to")
    out = engine / spec.verifier.adapter
    if fresh and start:
        raise InvalidRequest("fresh", "--fresh goes on from no adapter; leave out --start", reason="UNSPECIFIED")
    if start is None and spec.generator.adapter and not fresh:
        start = engine / spec.generator.adapter
    base, template = model_folder(spec.generator.model), spec.generator.template
    if kind == "likelihood" and all(path.suffix == ".jsonl" for path in data):
        worked = [example for path in data for example in read_examples(path)]
        unfinish(engine)
        finetune.train_generator(
            worked,
            base,
            out,
            template,
            start=start,
            rank=rank,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
        )
        typer.echo(f"wrote {out}, trained on {len(worked)} worked solutions")
        return
    frame = read_attempts(data)
    delimiter = template.delimiter
    examples = (
        labels.from_solutions(frame, read_prompts(solutions), delimiter)
        if solutions
        else labels.from_outcomes(frame, delimiter)
    )
    if not examples:
        raise InvalidFile("the attempts have no steps to learn from; collect some")
    unfinish(engine)
    finetune_verifier.train_verifier(
        examples, base, out, template, kind=kind, start=start, rank=rank, learning_rate=learning_rate, seed=seed
    )
    typer.echo(f"wrote {out}, trained on {len(examples)} attempts")


def merge(
    role: Annotated[Role, typer.Argument(help="Whose adapter; of verifiers those of kind likelihood.")],
    out: Annotated[Path, typer.Option(help="Folder to write, for vLLM or transformers: weights and tokenizer.")],
    *,
    engine: Annotated[
        Path, typer.Option(help="Folder with an engine.json, which names the model, and the adapter that it names.")
    ],
) -> None:
    """Write the engine's base model with an adapter merged into it: a model like any other, which needs no LoRA."""
    from router.backends.in_process.weights import merge
    from router.bundle.models import read_engine

    spec = read_engine(engine)
    adapters = {
        Role.generator: spec.generator.adapter,
        Role.reviser: spec.generator.reviser,
        Role.verifier: spec.verifier.adapter if spec.verifier.kind == "likelihood" else None,
    }
    adapter = adapters[role]
    if adapter is None:
        raise InvalidFile(f"{engine}/engine.json names no adapter of a language model as its {role}")
    merge(spec.generator.model, engine / adapter, out)
    typer.echo(f"wrote {out}; serve it with `vllm serve {out} --served-model-name {adapter}`")
