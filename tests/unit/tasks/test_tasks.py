"""The registry, what tasks take from requests, and the tasks beside math."""

import json
import re
import sys
import time
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest

from router.errors import InvalidRequest
from router.tasks import TASKS, Allowance, PlainTask, Tasks, load_task, within, workers
from router.tasks.choice import ChoiceTask
from router.tasks.exact import ExactTask
from router.tasks.json_values import JsonTask
from router.tasks.number import NumberTask

PAGE = Path(__file__).parents[3] / "docs" / "tasks.md"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_refuses_inputs_that_it_does_not_know(name):
    task = load_task(name)
    task.bound({})
    with pytest.raises(InvalidRequest) as caught:
        task.bound({"colour": "red"})
    assert caught.value.field == "colour"


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"code"}))
async def test_an_unfinished_thought_states_no_answer(name):
    task = load_task(name)
    assert task.bound({}) is task
    assert task.extract("<think>Answer: 1") is None
    assert await task.key("") == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poetry", "unknown task 'poetry'; known: math, .*or your own as module:object"),
        ("router.tasks.math:", "unknown task"),
        ("no.such.module:Task", "can't import the task"),
        ("router.tasks.math:NoSuchTask", "can't import the task"),
        ("router.tasks.math_equality:key", "it has no method bound; inherit from router.tasks.PlainTask"),
    ],
)
def test_what_is_no_task_is_refused(name, message):
    with pytest.raises(InvalidRequest, match=message) as raised:
        load_task(name)
    assert raised.value.field == "task"


def test_a_task_is_made_once():
    assert load_task("math") is load_task("math")


def test_a_task_of_three_methods_is_told_what_it_lacks():
    class Old:
        def extract(self, text: str) -> str:
            return text

    module = ModuleType("some_tasks")
    module.Old = Old  # type: ignore[attr-defined]
    sys.modules["some_tasks"] = module
    with pytest.raises(InvalidRequest, match=r"no method bound; inherit from router\.tasks\.PlainTask"):
        load_task("some_tasks:Old")


async def test_the_pages_own_task(monkeypatch):
    """The page's example runs as it stands, and is 30 lines."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (example,) = (block for block in blocks if "class IsoDate" in block)
    assert len(example.splitlines()) <= 30
    module = ModuleType("my_tasks")
    monkeypatch.setitem(sys.modules, "my_tasks", module)
    exec(compile(example, str(PAGE), "exec"), module.__dict__)
    task = load_task("my_tasks:IsoDate")
    assert task.extract("It was on 2021-03-04, no: 4 March 2021.\nAnswer: 2021-03-04") == "2021-03-04"
    assert await task.key("2021-3-4") == await task.key("2021-03-04") == "2021-03-04"
    assert await task.right("2021-03-04", "2021-3-4")
    assert task.extract("I don't know.") is None


def test_the_page_names_every_task():
    assert set(TASKS) - {"capital"} <= set(re.findall(r"^## (\w+)$", PAGE.read_text(), re.M))


# number


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("The answer is 3/4.", "0.75", True),
        ("So he pays $1,200.", "1200", True),
        ("2 + 3 = 5", "5", True),
        ("\\boxed{50\\%}", "50", True),
        ("Answer: 7.1", "7", False),
        ("Answer: x + 1", "7", None),
        ("Answer: Friday", "7", None),
    ],
)
async def test_number(text, reference, right):
    task = NumberTask()
    found = task.extract(text)
    assert (None if found is None else await task.right(found, reference)) == right


async def test_what_is_no_number_has_no_key():
    assert await NumberTask().key("Friday") == ""
    assert not await NumberTask().right("Friday", "Saturday")


# choice


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B.", "B"),
        ("The answer is (B) Paris", "B"),
        ("**Answer: B**", "B"),
        ("Answer: **D**", "D"),
        ("B", "B"),
        ("b", "B"),
        ("(c)", "C"),
        ("ANSWER: b", "B"),
        ("The correct option is C because it is closest.", "C"),
        ("The answer is A because a car moves.", "A"),
        ("The answer is B. Note that A is a common distractor.", "B"),
        ("I considered (A), but it is wrong. Final answer: D.", "D"),
        ("\\boxed{\\text{(E)}}", "E"),
        ("\\boxed{\\textbf{(C)}\\ 20}", "C"),
        ("\\boxed{E: A polygenic risk score}", "E"),
        ("\\boxed{\\langle H\\rangle}\n\n**Answer: D**", "D"),
        ("Antwort:\n\nAntwort: C", "C"),
        ("答案是 B。", "B"),
        ("Answer: this asks which is a colour\nANSWER: B", "B"),
        ("It has a long neck.\n(D)", "D"),
        ("Options B and C fail.\n\nD) 12", "D"),
        ("The answer is C because I computed the integral.", "C"),
        ("Answer seems to be hard to see.", None),
        ("A train leaves the station.", None),
        ("I would say it depends.", None),
        ("The answer is either (A) or (B).", None),
        ("The answer is Q.", None),
        ("The answer is a trap.", None),
        ("", None),
    ],
)
async def test_choice_by_letter(text, letter):
    task = ChoiceTask()
    found = task.extract(text)
    assert (None if found is None else await task.key(found)) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is Paris.", "B"),
        ("It's clearly the city of light.\nAnswer: paris", "B"),
        ("\\boxed{Paris}", "B"),
        ("The answer is (B) Paris", "B"),
        ("The answer is the capital, Paris, of course.", "B"),
        ("The answer is New York City.", "D"),
        ("The answer is York.", "C"),
        ("The capital of France is Paris.", "B"),
        ("Rome is not it, nor is Paris.", None),
        ("Answer: E", None),
        ("Answer: London", None),
    ],
)
async def test_choice_by_text(text, letter):
    task = load_task("choice").bound({"choices": ["Rome", "Paris", "York", "New York City"]})
    found = task.extract(text)
    assert (None if found is None else await task.key(found)) == letter


@pytest.mark.parametrize(
    ("choices", "text", "letter"),
    [
        (["1", "-1", "i", "-i"], "Answer: -1", "B"),
        (["1", "-1", "i", "-i"], "The answer is 1.", "A"),
        (["1", "−1", "i", "–i"], "So it is $-1$.", "B"),
        (["1", "–1", "i", "–i"], "Answer: −i", "D"),
        (["1", "2", "3", "4"], "Answer: -1", None),
        (["1", "2", "3", "4"], "The answer is x = -1.", None),
        (["5", "2", "3", "4"], "The answer is 0.5.", None),
        (["5", "2", "3", "4"], "The answer is about 1/2 of it.", None),
        (["BB Bb", "Bb Bb", "Bb bb", "bb bb"], "Answer: Bb bb", "C"),
        (["[-1,1]", "(-1,1)", "(0,1)"], "\\boxed{(-1,1)}", "B"),
        (["/", "//", "%", "|"], "Answer: //", "B"),
        (["/", "//", "%", "|"], "Answer: (C)", "C"),
        (["$\\frac{5}{x-4}$", "$-\\frac{x-4}{5}$", "$\\frac{x-4}{5}$"], "\\boxed{-\\frac{x-4}{5}}", "B"),
        (["one", "One"], "Answer: ONE", None),
    ],
)
async def test_choices_that_differ_in_a_sign_or_in_case(choices, text, letter):
    task = load_task("choice").bound({"choices": choices})
    found = task.extract(text)
    assert (None if found is None else await task.key(found)) == letter


async def test_choice_references_are_letters_or_texts():
    task = load_task("choice").bound({"choices": ["Rome", "Paris"]})
    assert await task.right("B", "Paris")
    assert await task.right("B", "(B)")
    assert await task.right("Paris", "B")
    assert not await task.right("B", "Rome")
    assert not await task.right("nothing", "nowhere")


def test_long_choices_take_no_time_and_are_chosen_by_letter():
    long = [str(i) + "\ufdfa" * 3_000 for i in range(26)]  # eighteen characters each, after normalization
    begun = time.process_time()
    task = load_task("choice").bound({"choices": long})
    assert time.process_time() - begun < 0.5  # 6 s where each was normalized for each other one
    assert task.extract("Answer: (C)") == "C"
    with pytest.raises(InvalidRequest, match="must differ"):
        load_task("choice").bound({"choices": [*long[:3], long[0]]})


@pytest.mark.parametrize("choices", ["AB", ["one"], ["one", 2], ["one", " one. "], [str(i) for i in range(27)], 5])
def test_bad_choices_are_refused(choices):
    with pytest.raises(InvalidRequest) as caught:
        load_task("choice").bound({"choices": choices})
    assert caught.value.field == "choices"


# exact


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("The Hague", "the  hague.", True),
        ("Answer: “The Hague”", "The Hague", True),
        ("I think of the court.\nSo:\n**The Hague**", "The Hague", True),
        ("<answer>The Hague</answer> it is", "The Hague", True),
        ("\\boxed{\\text{The Hague}}", "The Hague", True),
        ("Answer: Hague", "The Hague", False),
        ("Straße", "STRASSE", True),
        ("Answer: -5", "5", False),
        ("Answer: −5.", "-5", True),
        ("- Paris", "Paris", True),
        ("ﬁle", "file", True),
        ("don't know", "dont know", False),
        ("...", "?", None),
    ],
)
async def test_exact(text, reference, right):
    task = ExactTask()
    found = task.extract(text)
    assert (None if found is None else await task.right(found, reference)) == right


# json

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('First {"a": 1}, then {"a": 2}.', {"a": 2}),
        ('Here:\n```json\n{"a": {"b": [1, 2]}}\n```\nDone [1].', {"a": {"b": [1, 2]}}),
        ('```\n[{"a": 1}, {"a": 2}]\n```', [{"a": 1}, {"a": 2}]),
        ("[1, 2, 3]", [1, 2, 3]),
        ('{"a": "}"} is what I found', {"a": "}"}),
        ('an open [ and a 5" pipe.\nSo: {"a": 1}', {"a": 1}),
        ('{"a": 1} as in {this}', {"a": 1}),
        ('<think>{"a": 1}</think>{"a": 2}', {"a": 2}),
        ('{"a": {"b": 1}', None),  # cut
        ('{"a": NaN}', None),
        ('{"a": 1, "a": 2}', None),
        ("{'a': 1}", None),
        ("no JSON", None),
        ("[" * 5000 + "]" * 5000, None),
        ('{"a": ' + "1" * 5000 + "}", None),
    ],
)
def test_json_is_found(text, found):
    stated = JsonTask().extract(text)
    assert (None if stated is None else json.loads(stated)) == found


async def test_json_is_compared_by_value():
    task = JsonTask()
    assert await task.key('{"b": 1.0, "a": [1]}') == '{"a":[1],"b":1}'
    assert await task.right('{"b": 2, "a": "é"}', '{"a":"é","b":2.0}')
    assert not await task.right('{"a": [1, 2]}', '{"a": [2, 1]}')
    assert not await task.right('{"a": 1}', "no JSON")


async def test_json_fields_that_must_agree():
    task = load_task("json").bound({"fields": ["name", "address.city"]})
    reference = '{"name": "Ann", "address": {"city": "Bern", "street": "x"}, "age": 3}'
    assert await task.right('{"name": "Ann", "address": {"city": "Bern"}, "age": 4}', reference)
    assert not await task.right('{"name": "Ann", "address": {"city": "Basel"}, "age": 3}', reference)
    assert not await task.right('{"name": "Ann"}', reference)
    key = await task.key(reference)
    assert await task.key(key) == key
    rows = load_task("json").bound({"fields": ["a"]})
    assert await rows.right('[{"a": 1, "b": 2}]', '[{"a": 1, "b": 3}]')


async def test_json_must_keep_its_schema():
    task = load_task("json").bound({"schema": SCHEMA, "fields": ["name"]})
    assert await task.key('{"name": "Ann", "age": 3}') == '{"name":"Ann"}'
    assert await task.key('{"name": "Ann", "age": "three"}') == ""
    assert not await task.right('{"name": "Ann"}', '{"name": "Ann", "age": 3}')


async def test_a_hostile_schema_costs_its_own_call_only(monkeypatch):
    monkeypatch.setattr(workers, "_HARD", 0.5)
    task = load_task("json").bound({"schema": {"properties": {"a": {"pattern": "^(a+)+$"}}}})
    with workers.within(workers.Allowance(seconds=0.2)) as _:
        assert await task.key(json.dumps({"a": "a" * 40 + "!"})) == json.dumps({"a": "a" * 40 + "!"}).replace(": ", ":")


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"schema": {"type": 5}}, "schema"),
        ({"schema": "object"}, "schema"),
        ({"schema": {"$ref": "https://example.org/schema.json"}}, "schema"),
        ({"schema": {"enum": [[i] for i in range(1000)]}}, "schema"),
        ({"schema": {"const": float("inf")}, "fields": [None]}, "fields"),
        ({"fields": "name"}, "fields"),
        ({"fields": [1]}, "fields"),
        ({"field": ["name"]}, "field"),
    ],
)
def test_bad_inputs_are_refused(inputs, field):
    with pytest.raises(InvalidRequest) as caught:
        load_task("json").bound(inputs)
    assert caught.value.field == field


@pytest.mark.parametrize(("name", "inputs"), [("json", {"schema": SCHEMA}), ("code", {"tests": ["assert f(1)"] * 90})])
async def test_a_callers_inputs_are_checked_in_a_worker(name, inputs, monkeypatch):
    monkeypatch.setattr(workers, "_results", OrderedDict())
    inputs = json.loads(json.dumps(inputs).replace("f(1)", f"f({'1, ' * 60})"))
    task = await Tasks((name,)).of_caller(name, inputs)
    assert len(workers._results) == 1  # not by the processor time charged: some kernels tell none below a tick
    assert vars(task).keys() == vars(load_task(name).bound(inputs)).keys()


async def test_a_schema_that_takes_long_to_check_is_refused():
    hostile = {"properties": {str(i): {"pattern": f"(?i)[\x00-\U0010ffff]{i}"} for i in range(300)}}
    with (
        within(Allowance(seconds=0.2)),
        pytest.raises(InvalidRequest, match=r"inputs\.schema: .* too much time") as raised,
    ):
        await Tasks(("json",)).of_caller("json", {"schema": hostile})
    assert raised.value.reason == "INPUTS_INVALID"


async def test_a_wrong_schema_is_quoted_briefly():
    with pytest.raises(InvalidRequest, match=r"inputs\.schema: schema is not a JSON Schema: 'x+…") as raised:
        await Tasks(("json",)).of_caller("json", {"schema": {"type": "x" * 50_000}})
    assert len(str(raised.value)) < 500


async def test_without_workers_inputs_are_checked_all_the_same(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    workers.close()
    monkeypatch.setattr(workers, "_Pool", refuse)
    with pytest.raises(InvalidRequest, match="not a JSON Schema"):
        await Tasks(("json",)).of_caller("json", {"schema": {"type": 6}})


async def test_a_plain_task_is_its_text():
    task = PlainTask()
    assert task.extract("  as it is \n") == "as it is"
    assert await task.right("as  it is", "as it is")


def test_a_box_that_holds_no_choice_is_no_answer():
    task = ChoiceTask().bound({"choices": ["10", "20", "25", "45"]})
    assert task.extract("A graph with 10 vertices has so many edges: \\(\\boxed{55}\\).") is None
    assert task.extract("A graph with 10 vertices has so many edges: \\(\\boxed{45}\\).") == "D"
