"""A file of vectors that were read before."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from router.attempts.schema import write_attempts
from router.cli.main import main
from router.errors import InvalidFile
from router.prompt import Prompt
from router.training.difficulty import prompt_statistics, train
from router.training.vectors import kept
from tests.support.evaluation import world

ONE = "hidden(layer=1, position=last)"


def reading(asked):
    """A reader that notes what it is asked for."""

    def read(prompts):
        asked.append([prompt.question for prompt in prompts])
        return {ONE: np.array([[len(prompt.question), 0.5] for prompt in prompts], dtype=np.float32)}

    return read


def test_a_prompt_is_read_once(tmp_path):
    asked = []
    vectors = kept(tmp_path / "v.parquet", [ONE], "tiny", reading(asked))
    first = vectors([Prompt.of("a"), Prompt.of("bb")])
    again = vectors([Prompt.of("bb"), Prompt.of("ccc"), Prompt.of("a")])
    assert asked == [["a", "bb"], ["ccc"]]
    assert first[ONE].tolist() == [[1, 0.5], [2, 0.5]]
    assert again[ONE].tolist() == [[2, 0.5], [3, 0.5], [1, 0.5]]


def test_the_first_reading_gives_the_numbers_that_the_file_will(tmp_path):
    def read(prompts):
        return {ONE: np.array([[1 / 3, 1e9]], dtype=np.float32)}

    vectors = kept(tmp_path / "v.parquet", [ONE], "tiny", read)
    assert vectors([Prompt.of("a")])[ONE].tolist() == vectors([Prompt.of("a")])[ONE].tolist()


def test_other_features_are_added_beside(tmp_path):
    path, other = tmp_path / "v.parquet", "hidden(layer=2, position=mean)"
    kept(path, [ONE], "tiny", reading([]))([Prompt.of("a")])
    kept(path, [other], "tiny", lambda prompts: {other: np.ones((len(prompts), 1), dtype=np.float32)})([Prompt.of("b")])
    asked = []
    kept(path, [ONE], "tiny", reading(asked))([Prompt.of("a")])
    assert asked == []


def test_vectors_of_another_model_are_refused(tmp_path):
    kept(tmp_path / "v.parquet", [ONE], "tiny", reading([]))([Prompt.of("a")])
    with pytest.raises(InvalidFile, match="of the model 'tiny', and the bundle's is 'large'"):
        kept(tmp_path / "v.parquet", [ONE], "large", reading([]))([Prompt.of("a")])


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "v.parquet"
    path.write_text("none")
    with pytest.raises(InvalidFile, match="holds no vectors"):
        kept(path, [ONE], "tiny", reading([]))([Prompt.of("a")])


@pytest.mark.long
def test_training_and_evaluating_take_no_model_where_the_file_has_all(tmp_path):
    """models.json names weights that are nowhere."""
    folder, path = tmp_path / "bundle", tmp_path / "v.parquet"
    folder.mkdir()
    model = {"model": "nowhere", "parameters": 100, "template": {"delimiter": "\n"}, "temperature": 1, "max_tokens": 8}
    setup = {"name": "x", "task": "math", "reference": "small", "models": {"small": model}}
    (folder / "models.json").write_text(json.dumps(setup | {"verifier": {"kind": "log_prob"}}))
    for name, size in (("train", 20), ("held", 6)):
        frame = world(name, size)
        write_attempts(frame, tmp_path / f"{name}.parquet")
        kept(path, [ONE], "nowhere", reading([]))(prompt_statistics(frame, "pass_rate")["asked"].tolist())
    for command in (
        ["train", "train.parquet", "--features", ONE, "--vectors", path],
        ["tune", "train.parquet", "--budgets", "1,2", "--no-cascades"],
        ["evaluate", "held.parquet", "--vectors", path, "--out", tmp_path / "report"],
    ):
        name, attempts, *more = map(str, command)
        result = CliRunner().invoke(main, [name, str(tmp_path / attempts), "--bundle", str(folder), *more])
        assert result.exit_code == 0, result.output
    assert "hidden_ridge (layer=1, position=last)" in json.loads((folder / "training.json").read_text())["comparison"]


def test_candidates_can_be_named():
    _, training = train(world("train", 20), candidates=["prior", "prompt_length"])
    assert set(training.comparison) == {"prior", "prompt_length"}
