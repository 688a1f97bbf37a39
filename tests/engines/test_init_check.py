"""router init writes a folder that works; router check says, a line each, what does not."""

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from router.backends.probe import size_in
from router.bundle.setup import read_setup
from router.cli.main import main
from tests.support.fake_chat import FakeChat, serving

MODEL = {"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 1024, "n_params": 7_000}}


@pytest.fixture
def chat() -> FakeChat:
    return FakeChat()


@pytest.fixture
def url(chat: FakeChat) -> Iterator[str]:
    with serving(chat, [MODEL]) as url:
        yield url


def run(*words: str, code: int = 0, said: str | None = None) -> str:
    result = CliRunner().invoke(main, list(words), input=said)
    assert result.exit_code == code, result.output
    return result.output


# init


def test_a_folder_describes_what_the_server_has(url, tmp_path):
    folder = tmp_path / "mine"
    run("init", str(folder), "--url", url)
    spec = read_setup(folder).main
    assert (spec.model, spec.parameters, spec.backend) == ("m", 7_000, "openai")
    assert spec.endpoint.extra_body == {"top_k": 0, "min_p": 0.0}
    readme = (folder / "README.md").read_text()
    assert all(
        f"`{key}`" in readme
        for key in json.loads((folder / "models.json").read_text())["models"]["small"]
        if key != "endpoint"
    )
    assert f'ROUTER_URL="small={url}"' in readme


def test_a_servers_password_is_sent_and_written_nowhere(url, tmp_path):
    said = run("init", str(tmp_path / "mine"), "--url", url.replace("http://", "http://me:s3cret@"))
    assert "give them to the next commands" in said
    assert f'ROUTER_URL="small={url}"' in (tmp_path / "mine" / "README.md").read_text()
    checked = run("check", "--bundle", str(tmp_path / "mine"), "--url", f"small={url.replace('//', '//me:s3cret@')}")
    assert f"{url} answers" in checked
    assert "s3cret" not in said + checked


@pytest.mark.parametrize("task", ["math", "number", "choice", "exact", "json", "code"])
def test_a_folder_of_each_task_can_be_read(url, tmp_path, task):
    run("init", str(tmp_path / "mine"), "--url", url, "--task", task)
    assert read_setup(tmp_path / "mine").tasks == (task,)


def test_a_vllm_server_is_asked_by_tokens(tmp_path):
    served = [{"id": "q", "root": "/models/q-1.5B", "owned_by": "vllm", "max_model_len": 2048}]
    served += [{"id": "lora", "root": "/lora", "parent": "q", "owned_by": "vllm"}]
    with serving(FakeChat(), served) as url:
        run("init", str(tmp_path / "mine"), "--url", url)
    spec = read_setup(tmp_path / "mine").main
    assert (spec.model, spec.backend, spec.parameters) == ("/models/q-1.5B", "vllm", 1_500_000_000)


def test_a_model_with_several_names_is_one_model(tmp_path):
    served = [{"id": name, "root": "/models/x", "owned_by": "vllm", "max_model_len": 2048} for name in ("q-0.5b", "q")]
    with serving(FakeChat(), served) as url:
        run("init", str(tmp_path / "mine"), "--url", url)
    spec = read_setup(tmp_path / "mine").main
    assert (spec.model, spec.parameters) == ("/models/x", 500_000_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "openai"], "needs --url"),
        ([], "say which model"),
        (["--model", "mystery"], "--parameters"),
        (["--task", "essay", "--model", "x-1b"], "unknown task"),
        (["--url", "http://127.0.0.1:9"], "nothing answers"),
    ],
)
def test_what_is_missing_is_named(tmp_path, options, message):
    result = CliRunner().invoke(main, ["init", str(tmp_path / "mine"), *options])
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert not (tmp_path / "mine").exists()


def test_at_a_terminal_it_asks(url, tmp_path, monkeypatch):
    monkeypatch.setattr("router.cli.begin.at_a_terminal", lambda: True)
    said = run("init", str(tmp_path / "mine"), said=f"{url}\nchoice\n")
    assert "Where does the model's server answer?" in said
    setup = read_setup(tmp_path / "mine")
    assert (setup.tasks, setup.main.model) == (("choice",), "m")


def test_at_a_terminal_it_asks_for_a_model_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("router.cli.begin.at_a_terminal", lambda: True)
    run("init", str(tmp_path / "mine"), said="\nmath\nmystery\n5000\n")
    spec = read_setup(tmp_path / "mine").main
    assert (spec.model, spec.parameters, spec.backend) == ("mystery", 5000, "in_process")


def test_longest_solutions_have_to_fit_the_context(url, tmp_path):
    assert "1024 tokens" in run("init", str(tmp_path / "mine"), "--url", url, "--max-tokens", "2000", code=2)


def test_a_folder_is_not_overwritten(url, tmp_path):
    run("init", str(tmp_path), "--url", url)
    assert "already" in run("init", str(tmp_path), "--url", url, code=2)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 500_000_000),
        ("smollm2-135m-instruct", 135_000_000),
        ("Qwen3-30B-A3B", 3_000_000_000),
        ("llama-3.1-8b", 8_000_000_000),
        ("gpt-oss", None),
        ("/models/v2b/final", None),
    ],
)
def test_sizes_in_names(name, size):
    assert size_in(name) == size


# check


@pytest.fixture
def folder(url, tmp_path):
    run("init", str(tmp_path / "mine"), "--url", url)
    return tmp_path / "mine"


def failing(folder, url: str) -> list[str]:
    lines = run("check", "--bundle", str(folder), "--url", f"small={url}", code=1).splitlines()
    return [line for line in lines if line.startswith("FAILED")]


def test_everything_is_tried(folder, url):
    lines = run("check", "--bundle", str(folder), "--url", f"small={url}").splitlines()
    assert all(line.startswith("ok") for line in lines[:-1])
    assert "context of 1024 tokens" in lines[0]
    assert "beam_search" in lines[1]
    assert "answer found: '7'" in lines[3]
    assert "log_prob scored it" in lines[4]
    assert lines[-1] == "all 5 checks passed"


def test_a_server_that_does_not_answer(folder):
    (line,) = failing(folder, "http://127.0.0.1:9")
    assert "nothing answers at http://127.0.0.1:9" in line


def test_no_answer_in_what_it_writes(folder, url, chat):
    chat.write = lambda body, rng: "I would rather talk about the sea"
    (line,) = failing(folder, url)
    assert "no answer found" in line
    assert "default_system" in line


def test_no_log_probabilities_for_a_verifier_that_reads_them(folder, url, chat):
    chat.log_probs = False
    lines = failing(folder, url)
    assert '"log_probs": false' in lines[0]


def test_no_room_for_a_prompt(folder, url):
    described = json.loads((folder / "models.json").read_text())
    described["models"]["small"]["max_tokens"] = 1000
    (folder / "models.json").write_text(json.dumps(described))
    (line,) = failing(folder, url)
    assert "leaves 24 for a prompt" in line


def test_a_model_that_is_not_served(folder):
    with serving(FakeChat(), [{"id": "other", "owned_by": "sglang"}]) as url:
        (line,) = failing(folder, url)
    assert "does not serve 'm'; it serves other" in line


def test_a_users_own_task_wants_a_question(folder, url):
    described = json.loads((folder / "models.json").read_text())
    described["task"] = "tests.engines.test_init_check:Anything"
    (folder / "models.json").write_text(json.dumps(described))
    options = ["check", "--bundle", str(folder), "--url", f"small={url}"]
    assert "--prompt TEXT" in run(*options, code=2)
    assert "all 5 checks passed" in run(*options, "--prompt", "Write anything.")


def __getattr__(name: str):
    from router.tasks import PlainTask

    if name == "Anything":
        return PlainTask
    raise AttributeError(name)
