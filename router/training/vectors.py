"""Prompts' vectors that were read before, in a file: with it, training and evaluating again take no model.

Parquet, a row a prompt: ``digest`` as ``difficulty.text_digest`` makes it, and a column for each features' name that
holds the vector's numbers as bytes, in 16-bit floats. The file's metadata name the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from router.errors import InvalidFile
from router.prompt import Prompt
from router.training.difficulty import VectorsByName, text_digest
from router.whole_files import written_whole

_DIGEST, _MODEL = "digest", b"model"
_LARGEST = 65000.0  # that 16 bits hold
Table = dict[str, dict[str, bytes]]  # name of features → digest → numbers


def kept(path: Path, names: Sequence[str], model: str, read: VectorsByName) -> VectorsByName:
    """As ``read``, but prompts that the file knows are not read again, and what was read is added to it.

    model  that gives the vectors. Raises InvalidFile, also where the file is of another one
    """

    def vectors(prompts: Sequence[Prompt]) -> Mapping[str, NDArray[np.float32]]:
        table = _load(path, model)
        digests = [text_digest(prompt) for prompt in prompts]
        known = [table.setdefault(name, {}) for name in names]
        lacking = [
            prompt
            for prompt, digest in zip(prompts, digests, strict=True)
            if any(digest not in column for column in known)
        ]
        if lacking:
            for name, values in read(lacking).items():
                rows = np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
                table[name] |= {text_digest(prompt): row.tobytes() for prompt, row in zip(lacking, rows, strict=True)}
            _save(table, path, model)
        return {
            name: np.stack([np.frombuffer(table[name][digest], np.float16) for digest in digests]).astype(np.float32)
            for name in names
        }

    return vectors


def _load(path: Path, model: str) -> Table:
    if not path.exists():
        return {}
    try:
        found = pq.read_table(path)
        rows = found.to_pydict()
        digests = rows.pop(_DIGEST)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InvalidFile(f"{path} holds no vectors ({error}); name another --vectors file, or remove it") from error
    made_by = (found.schema.metadata or {}).get(_MODEL, b"").decode()
    if made_by != model:
        raise InvalidFile(
            f"{path} holds vectors of the model {made_by!r}, and the bundle's is {model!r}; name another --vectors file"
        )
    return {
        name: {digest: row for digest, row in zip(digests, column, strict=True) if row is not None}
        for name, column in rows.items()
    }


def _save(table: Table, path: Path, model: str) -> None:
    digests = list(dict.fromkeys(digest for column in table.values() for digest in column))
    columns = {name: pa.array([column.get(each) for each in digests], pa.binary()) for name, column in table.items()}
    schema = pa.schema(
        [pa.field(_DIGEST, pa.string()), *(pa.field(name, pa.binary()) for name in columns)],
        metadata={_MODEL: model.encode()},
    )
    with written_whole(path) as partial:
        pq.write_table(pa.table([pa.array(digests), *columns.values()], schema=schema), partial, compression="zstd")
