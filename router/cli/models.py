"""The commands train-generator, train-reviser and train-verifier, which train adapters, and merge."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import AllowCode, Models, Overwrite, Seed, Written, check_unfinished, finite, say, unfinish
from router.errors import InvalidFile, InvalidRequest

Rank = Annotated[int, typer.Option(min=1, help="Rank of a new LoRA adapter; an existing one keeps its rank.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples in a step; on a GPU, ten times as many are better.")]


class Role(StrEnum):
    """Whose adapter to merge; the base has none."""

    base = "base"
    generator = "generator"
    reviser = "reviser"
    verifier = "verifier"


def train_generator(
    examples: Annotated[Path, typer.Argument(help="JSON Lines: prompt, completion, and optionally earlier attempts.")],
    *,
    bundle: Written,
    overwrite: Overwrite = False,
    start: Annotated[Path | None, typer.Option(help="Adapter to start from.  [default: a new one]")] = None,
    rank: Rank = 8,
    batch_size: BatchSize = 24,
    learning_rate: Annotated[
        float, typer.Option(callback=finite, help="Peak learning rate; it decays along a cosine.")
    ] = 2e-3,
    seed: Seed = 0,
) -> None:
    """Fine-tune the bundle's reference model on worked solutions: a LoRA adapter of a few megabytes in the bundle's
    folder.

    Takes minutes on a CPU. After an interruption, the same command continues from the last checkpoint.
    """
    check_unfinished(bundle, overwrite)
    from router.backends.in_process.weights import model_folder
    from router.backends.template import resolved
    from router.backends.tokenizers import load_tokenizer
    from router.bundle.setup import read_setup
    from router.training import finetune
    from router.training.examples import read_examples

    generator = read_setup(bundle).main
    if generator.adapter is None:
        raise InvalidFile(f"{bundle}/models.json: adapter is null; name the folder to write the adapter to")
    worked = read_examples(examples)
    unfinish(bundle)
    finetune.train_generator(
        worked,
        model_folder(generator.model),
        bundle / generator.adapter,
        resolved(generator.template, load_tokenizer(generator.model)),
        start=start,
        rank=rank,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    typer.echo(f"wrote {bundle / generator.adapter}")


def train_reviser(
    attempts: Annotated[list[Path], typer.Argument(help="Attempts files, on prompts never used for evaluation.")],
    *,
    bundle: Written,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 24,
    learning_rate: Annotated[
        float, typer.Option(callback=finite, help="Peak learning rate; it decays along a cosine.")
    ] = 1e-3,
    seed: Seed = 0,
    allow_code: AllowCode = False,
) -> None:
    """Fine-tune the bundle's reviser on chains of wrong attempts followed by a right one, starting from the generator.

    Resumes after an interruption.
    """
    check_unfinished(bundle, overwrite)
    from router.attempts.schema import read_attempts
    from router.backends.in_process.weights import model_folder
    from router.backends.template import resolved
    from router.backends.tokenizers import load_tokenizer
    from router.bundle.setup import read_setup
    from router.tasks import Tasks
    from router.training import finetune
    from router.training.chains import chains

    setup = read_setup(bundle)
    generator = setup.main
    if generator.reviser is None:
        raise InvalidFile(f"{bundle}/models.json: reviser is null; name the folder to write the adapter to")
    examples = chains(read_attempts(attempts, Tasks(setup.tasks, allow_code), say=say), seed=seed)
    unfinish(bundle)
    finetune.train_generator(
        examples,
        model_folder(generator.model),
        bundle / generator.reviser,
        resolved(generator.template, load_tokenizer(generator.model)),
        start=bundle / generator.adapter if generator.adapter else None,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    typer.echo(f"wrote {bundle / generator.reviser}, trained on {len(examples)} chains")


def train_verifier(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Attempts files with right and wrong steps; or, for the first training of a likelihood verifier, "
            "JSON Lines of worked solutions as for train-generator, many more than the generator saw. On prompts never "
            "used for evaluation."
        ),
    ],
    *,
    bundle: Written,
    overwrite: Overwrite = False,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Adapter to start from; for ranking attempts, one trained on worked solutions.  "
            "[default: the generator's]"
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start from a new adapter, of --rank.")] = False,
    rank: Rank = 8,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Worked solutions in a step. A step on attempts has those at 8 prompts.")
    ] = 24,
    solutions: Annotated[
        Path | None,
        typer.Option(
            help="Prompts file with worked solutions of the attempts' prompts; a step is right if it and all steps "
            "before it match.  [default: label a step with the share of right attempts among those that begin with it]"
        ),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(callback=finite, help="Peak learning rate; it decays along a cosine.")
    ] = 1e-3,
    seed: Seed = 0,
    allow_code: AllowCode = False,
) -> None:
    """Train the bundle's verifier: a process reward model, on labelled steps of sampled attempts, or a language model
    that knows the task better (a likelihood verifier), first on worked solutions, then on ranking attempts.

    Judge it with `router judge` on attempts at other prompts before serving it. Resumes after an interruption.
    """
    check_unfinished(bundle, overwrite)
    from router.attempts.prompts import read_prompts
    from router.attempts.schema import read_attempts
    from router.backends.in_process.weights import model_folder
    from router.backends.steps import StepText
    from router.backends.template import resolved
    from router.backends.tokenizers import load_tokenizer
    from router.bundle.setup import read_setup
    from router.tasks import Tasks
    from router.training import finetune, finetune_verifier, labels
    from router.training.examples import read_examples

    setup = read_setup(bundle)
    kind = setup.verifier.kind
    if setup.verifier.adapter is None:
        raise InvalidFile(f"{bundle}/models.json: verifier.adapter is null; name the folder to write the adapter to")
    out = bundle / setup.verifier.adapter
    if fresh and start:
        raise InvalidRequest("fresh", "--fresh starts from a new adapter; leave out --start", reason="UNSPECIFIED")
    if start is None and setup.main.adapter and not fresh:
        start = bundle / setup.main.adapter
    base = model_folder(setup.main.model)
    tokenizer = load_tokenizer(setup.main.model)
    template = resolved(setup.main.template, tokenizer)
    if kind == "likelihood" and all(path.suffix == ".jsonl" for path in data):
        worked = [example for path in data for example in read_examples(path)]
        unfinish(bundle)
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
    frame = read_attempts(data, Tasks(setup.tasks, allow_code), say=say)
    split = StepText(tokenizer, template.delimiter).split
    examples = (
        labels.from_solutions(frame, read_prompts(solutions), split)
        if solutions
        else labels.from_outcomes(frame, split)
    )
    if not examples:
        raise InvalidFile("the attempts have no steps to learn from; collect some")
    unfinish(bundle)
    finetune_verifier.train_verifier(
        examples, base, out, template, kind=kind, start=start, rank=rank, learning_rate=learning_rate, seed=seed
    )
    typer.echo(f"wrote {out}, trained on {len(examples)} attempts")


def merge(
    role: Annotated[
        Role,
        typer.Argument(
            help="Whose adapter to merge; verifier: of kind likelihood only; base: none, for a server with LoRA."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write, for vLLM or transformers: weights and tokenizer.")],
    *,
    bundle: Models,
) -> None:
    """Write the bundle's base model with an adapter merged into it, as a plain model that needs no LoRA."""
    from shlex import join

    from router.backends.in_process.weights import merge
    from router.bundle.setup import read_setup

    setup = read_setup(bundle)
    if role is Role.base:
        merge(setup.main.model, None, out)
        folders = [each for each in (setup.main.adapter, setup.main.reviser) if each]
        lora = ["--enable-lora", "--max-loras", str(len(folders)), "--lora-modules"] if folders else []
        lora += [f"{folder}={bundle / folder}" for folder in folders]
        typer.echo(f"wrote {out}; serve it with `{join(['vllm', 'serve', str(out), *lora])}`")
        return
    adapters = {
        Role.generator: setup.main.adapter,
        Role.reviser: setup.main.reviser,
        Role.verifier: setup.verifier.adapter if setup.verifier.kind == "likelihood" else None,
    }
    adapter = adapters[role]
    if adapter is None:
        raise InvalidFile(f"{bundle}/models.json names no adapter of a language model as its {role}")
    merge(setup.main.model, bundle / adapter, out)
    typer.echo(f"wrote {out}; serve it with `vllm serve {out} --served-model-name {adapter}`")
