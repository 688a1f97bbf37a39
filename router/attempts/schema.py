"""The attempts file: one row per sampled attempt. Parquet or JSON Lines, from ``router collect`` or elsewhere.

==================  ===============  ==================================================================================
column              type             meaning
==================  ===============  ==================================================================================
prompt_id           str              names the prompt; one id has one prompt and one reference
prompt              str              the problem text: what is asked, the last message
messages            list or null     all chat messages, each with role and content; null where the prompt is one message
                                     of the user. May be left out
reference           str or null      the right answer; in JSON Lines it may be a number, and so may ``answer``
sample              int              index of the attempt within its prompt and arm, from 0
text                str              the solution as written
answer              str or null      final answer, as the task's ``key`` spells it; null when there is none, also when
                                     the solution was cut
correct             bool or null     whether the answer is right; null when that is unknown
scores              list of float    one per step from the verifier, in [0, 1]; null when it was not scored
                    or null
prompt_tokens       int              tokens of the rendered prompt; all samples of one prompt share this cost
generated_tokens    int              tokens sampled, end-of-sequence included
scored_tokens       int              tokens that the verifier read for this attempt, without the prompt, which it reads
                                     once. Files from elsewhere may lack the three columns, or have null: then tokens
                                     are estimated, one per 4 bytes of UTF-8 text (``elsewhere.with_tokens``)
arm                 str              ``sample``: an independent attempt from the reference model's pool;
                                     ``sample(model=large)``: from another model's. Otherwise an arm like
                                     ``beam_search(n=16, m=4)``: one complete run of it. Its three token columns are
                                     the bill of the whole run: all that models read and wrote and the verifier read
usage               list or null     for a run with several models: model, role, prompt_tokens, generated_tokens and
                                     scored_tokens of each line of its bill. May be left out
inputs              str or null      what the task was given besides the prompt, as a JSON object in text; in JSON Lines
                                     the object itself. May be left out
task                str or null      name of the prompt's task; null: the bundle's first one. May be left out
seconds             float or null    duration of the whole run, writing and scoring; for a pool's attempt that of the
                                     whole pool, whose attempts are written at the same time. May be left out
score_seconds       float or null    the part of ``seconds`` in which the verifier scored. May be left out
log_prob            float or null    mean log-probability of a token under the model that wrote it, in nats; null where
                                     its engine gives none. May be left out
propensity          float or null    for a served call (``collect --from-outcomes``): the probability with which this
                                     arm was chosen for the prompt. Null: the arm was run on purpose. May be left out
==================  ===============  ==================================================================================

Only the types are required. Without ``correct`` there is no pass rate, without ``scores`` there are no arms that need
them, and an arm without rows is not in the policy. A served call is a run of its arm like any other, but a policy chose
which prompts have one. So a mean over prompts has to count each call 1 / propensity times; a policy's table takes only
arms that were run on nearly every prompt.
"""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from router.attempts.elsewhere import BYTES, TOKENS, judged, with_tokens
from router.attempts.files import expand
from router.attempts.pools import is_pool, model_of, pool_of
from router.errors import InvalidFile
from router.jsonl import as_text, read_jsonl
from router.prompt import Prompt
from router.tasks import Tasks
from router.whole_files import written_whole
from strategies import InvalidArm, parse

_MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
_USAGE = pa.list_(
    pa.struct(
        [
            pa.field("model", pa.string()),
            pa.field("role", pa.string()),
            *(pa.field(name, pa.int64()) for name in ("prompt_tokens", "generated_tokens", "scored_tokens")),
        ]
    )
)
SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("messages", _MESSAGES),
        pa.field("reference", pa.string()),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("generated_tokens", pa.int64(), nullable=False),
        pa.field("scored_tokens", pa.int64(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("usage", _USAGE),
        pa.field("propensity", pa.float64()),
        pa.field("inputs", pa.string()),
        pa.field("task", pa.string()),
        pa.field("seconds", pa.float64()),
        pa.field("score_seconds", pa.float64()),
        pa.field("log_prob", pa.float64()),
    ]
)
OPTIONAL = (
    "messages",
    "usage",
    "propensity",
    "inputs",
    "task",
    "seconds",
    "score_seconds",
    "log_prob",
)  # columns that a file may lack; then they are null
_MAY_LACK = (*OPTIONAL, *TOKENS)
_NULLABLE = {*TOKENS, *(field.name for field in SCHEMA if field.nullable)}  # in a file
_READ = pa.schema([field.with_nullable(field.name in _NULLABLE) for field in SCHEMA])
_WANTED: dict[pa.DataType, tuple[str, Callable[[Any], bool]]] = {
    pa.string(): ("a string", lambda value: isinstance(value, str)),
    pa.int64(): ("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    pa.bool_(): ("true or false", lambda value: isinstance(value, bool)),
    pa.float64(): ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    _MESSAGES: ("a list of messages", lambda value: isinstance(value, list)),
    _USAGE: ("a list of lines of a bill", lambda value: isinstance(value, list)),
    pa.list_(pa.float32()): (
        "a list of numbers",
        lambda value: isinstance(value, list) and all(isinstance(x, int | float) and x is not True for x in value),
    ),
}
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # row numbers, which pandas writes after rows were left out
_ROUNDING = 1e-6  # rounding errors may exceed [0, 1] by this much


def read_attempts(
    paths: Sequence[Path], tasks: Tasks | None = None, *, say: Callable[[str], None] = lambda text: None
) -> pd.DataFrame:
    """Return all rows of the files, in order, with the columns of :data:`SCHEMA` (``correct`` as nullable boolean).

    A folder stands for the files in it.

    tasks  find, compare and judge the answers that ``router collect`` did not write, see ``elsewhere.judged``; None:
           rows are taken as they are. Runs an event loop
    say    is called with a sentence about what was judged or estimated here

    Raises InvalidFile, naming the file, the line (JSON Lines) or row (Parquet), and the column.
    """
    if not paths:
        raise InvalidFile("no attempts file was given; `router collect` writes one")
    tables, origins = [], []
    for path in expand(paths):
        table, where = _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)
        tables.append(table)
        origins += where
    table = pa.concat_tables(tables)
    if not table.num_rows:
        raise InvalidFile(f"{', '.join(map(str, paths))}: no attempts in it; `router collect` writes some")
    frame = to_frame(table)
    frame["arm"] = _arms(frame["arm"], origins)
    _check_values(table, origins)
    _check_identity(frame, origins)
    frame, estimated = with_tokens(frame)
    if estimated:
        say(
            f"{estimated} of {len(frame)} attempts lack token counts: estimated, one token for {BYTES} bytes of text. "
            "Costs are as rough; write prompt_tokens, generated_tokens and scored_tokens where they are known"
        )
    if tasks is None:
        return frame
    frame, count = asyncio.run(judged(frame, tasks, origins))
    if count:
        say(f"{count} of {len(frame)} attempts had `correct` null: judged by their answers and references")
    return frame


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Convert to a data frame, with ``correct`` as nullable boolean."""
    return table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)


def write_attempts(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet atomically: also after a kill, the file is the old one or the complete new one."""
    absent = [name for name in OPTIONAL if name not in frame]
    frame = frame.assign(**dict.fromkeys(absent))[SCHEMA.names]
    table = pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False)
    with written_whole(path) as partial:
        pq.write_table(table, partial, compression="zstd", compression_level=19, use_dictionary=True)


def _read_parquet(path: Path) -> tuple[pa.Table, list[str]]:
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise InvalidFile(f"{path} does not exist; `router collect` writes attempts") from error
    except (pa.ArrowException, OSError) as error:
        raise InvalidFile(
            f"{path} can't be read as Parquet ({_first_line(error)}); it is cut short or not Parquet: "
            "copy it again, or rename JSON Lines to .jsonl"
        ) from error
    table = table.drop_columns([name for name in table.column_names if _PANDAS_INDEX.fullmatch(name)])
    _check_columns(table.column_names, str(path))
    columns = []
    for name in _MAY_LACK:
        if name not in table.column_names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(table.num_rows, SCHEMA.field(name).type))
    for field in SCHEMA:
        column = table[field.name]
        if field.name not in _NULLABLE and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise InvalidFile(f"{path}, row {row}: {field.name} is null; it must be {_WANTED[field.type][0]}")
        if pa.types.is_integer(field.type) and not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            raise InvalidFile(f"{path}: column {field.name} is {column.type}; it must be integers")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise InvalidFile(
                f"{path}: column {field.name} is {column.type}; it must be {_WANTED[field.type][0]} a row"
            ) from error
    return pa.table(columns, schema=_READ), [f"{path}, row {row}" for row in range(table.num_rows)]


def _read_jsonl(path: Path) -> tuple[pa.Table, list[str]]:
    rows, origins = [], []
    advice = "`router collect` writes attempts, one object a line in JSON Lines; Parquet files end in .parquet"
    for _, where, row in read_jsonl(path, advice):
        row |= {name: as_text(row[name]) for name in ("reference", "answer") if name in row}
        if isinstance(row.get("inputs"), dict):
            row["inputs"] = json.dumps(row["inputs"], ensure_ascii=False)
        _check_row(row, where)
        rows.append(row)
        origins.append(where)
    return pa.Table.from_pylist(rows, schema=_READ), origins


def _check_row(row: dict[str, Any], where: str) -> None:
    _check_columns(list(row), where)
    for field in SCHEMA:
        value = row.get(field.name)
        kind, fits = _WANTED[field.type]
        nullable = field.name in _NULLABLE
        if not (fits(value) or (value is None and nullable)):
            raise InvalidFile(
                f"{where}: {field.name} is {json.dumps(value)[:60]}; it must be {kind}{' or null' * nullable}"
            )


def _check_columns(names: Sequence[str], where: str) -> None:
    unknown = sorted(set(names) - set(SCHEMA.names))
    missing = [name for name in SCHEMA.names if name not in (*names, *_MAY_LACK)]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise InvalidFile(f"{where}: {' and '.join(parts)}; the columns are {', '.join(SCHEMA.names)}")


def _arms(arms: pd.Series, origins: Sequence[str]) -> pd.Series:
    """Return the arms in their one spelling. Raises InvalidFile."""
    spelling = {}
    for arm in arms.unique():
        try:
            spelling[arm] = pool_of(model_of(arm)) if is_pool(arm) else str(parse(arm))
        except InvalidArm as error:
            row = int((arms == arm).to_numpy().argmax())
            raise InvalidFile(f"{origins[row]}: arm {arm!r}: {error}, or `sample` for one of a pool") from error
    return arms.map(spelling)


def _check_values(table: pa.Table, origins: Sequence[str]) -> None:
    for name in ("prompt_id", "prompt"):
        blank = pc.equal(pc.utf8_trim_whitespace(table[name]), "").to_numpy()
        if blank.any():
            raise InvalidFile(f"{origins[blank.argmax()]}: {name} is blank")
    for name in ("sample", "prompt_tokens", "generated_tokens", "scored_tokens", "seconds", "score_seconds"):
        negative = pc.fill_null(pc.less(table[name], 0), False).to_numpy()
        if negative.any():
            raise InvalidFile(f"{origins[negative.argmax()]}: {name} is negative; count it, or leave the row out")
    for name in ("seconds", "score_seconds"):
        endless = pc.fill_null(pc.invert(pc.is_finite(table[name])), False).to_numpy()
        if endless.any():
            raise InvalidFile(f"{origins[endless.argmax()]}: {name} must be finite, or null where it is unknown")
    outside = pc.invert(pc.and_(pc.greater(table["propensity"], 0), pc.less_equal(table["propensity"], 1)))
    outside = pc.fill_null(outside, False).to_numpy()
    if outside.any():
        raise InvalidFile(f"{origins[outside.argmax()]}: propensity must be a probability above 0, or null")
    wrong = pc.invert(pc.and_(pc.is_finite(table["log_prob"]), pc.less_equal(table["log_prob"], _ROUNDING)))
    wrong = pc.fill_null(wrong, False).to_numpy()
    if wrong.any():
        raise InvalidFile(
            f"{origins[wrong.argmax()]}: log_prob must be a mean log-probability, so at most 0 and finite, or null"
        )
    scores = table["scores"].combine_chunks()
    flat = scores.flatten().to_numpy(zero_copy_only=False)
    outside = ~((flat >= -_ROUNDING) & (flat <= 1 + _ROUNDING))
    if outside.any():
        row = pc.list_parent_indices(scores)[int(outside.argmax())].as_py()
        raise InvalidFile(
            f"{origins[row]}: scores holds {flat[outside.argmax()]}; a score lies in [0, 1], "
            "and an attempt that was not scored has null for its scores"
        )


def _check_identity(frame: pd.DataFrame, origins: Sequence[str]) -> None:
    doubled = frame.duplicated(["prompt_id", "arm", "sample"]).to_numpy()
    if doubled.any():
        row = int(doubled.argmax())
        prompt_id, arm, sample = frame.loc[row, ["prompt_id", "arm", "sample"]]
        raise InvalidFile(
            f"{origins[row]}: prompt_id {prompt_id!r}, arm {arm!r}, sample {sample} is there already; "
            "give each attempt its own sample index, and each file only once"
        )
    for name in ("prompt", "reference", "inputs", "task"):
        column = frame[name].fillna("")
        differs = (column != column.groupby(frame["prompt_id"]).transform("first")).to_numpy()
        if differs.any():
            row = int(differs.argmax())
            raise InvalidFile(
                f"{origins[row]}: prompt_id {frame.loc[row, 'prompt_id']!r} has another {name} in an earlier row; "
                "give each prompt its own id"
            )


def last_score(scores: Any) -> float | None:
    """Return the score that selection uses (see ``strategies.Candidate.score``); None where there is none."""
    return None if scores is None or isinstance(scores, float) or not len(scores) else float(scores[-1])


def prompt_of(row: Any) -> Prompt:
    """Return the prompt of a row, from its messages where it has some."""
    if row["messages"] is None or isinstance(row["messages"], float):
        return Prompt.of(row["prompt"])
    return Prompt.read([dict(message) for message in row["messages"]])


def prompts_of(frame: pd.DataFrame) -> dict[str, Prompt]:
    """Return the prompts by prompt_id."""
    first = frame.drop_duplicates("prompt_id")
    return {row["prompt_id"]: prompt_of(row) for row in first[["prompt_id", "prompt", "messages"]].to_dict("records")}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
