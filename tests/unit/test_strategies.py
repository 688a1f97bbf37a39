"""Strategies against tables of requests and replies: no engine, no driver."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Literal

import pytest

from strategies import (
    BeamSearch,
    Candidate,
    Dvts,
    Earlier,
    Extend,
    Lookahead,
    Result,
    Score,
    Search,
    parse,
)
from strategies.selection import best, majority, weighted, within_then_across
from strategies.tree_search import survivors


def solved(
    answer: str | None, score: float | None = None, *, end: Literal["stop", "length", "cut"] = "stop", text: str = "x"
) -> Candidate:
    return Candidate(
        steps=(text,),
        tokens=(1,),
        token_counts=(1,),
        log_probs=(0.0,),
        scores=None if score is None else (score,),
        end=end,
        answer=answer,
    )


def play(arm: str, replies: Sequence[Sequence[Candidate]]) -> tuple[list[Extend | Score], Result]:
    """Feed a search from a list of replies; return its requests and its result."""
    search = parse(arm).search()
    requests: list[Any] = [next(search)]
    for reply in replies:
        try:
            requests.append(search.send(list(reply)))
        except StopIteration as done:
            return requests, done.value
    raise AssertionError(f"the search still asks: {requests[-1]}")


# Selection


@pytest.mark.parametrize(
    ("select", "candidates", "answer"),
    [
        (majority, [solved("1"), solved("2"), solved("2")], "2"),
        (majority, [solved("2"), solved("1")], "2"),  # a tie goes to the answer seen first
        (majority, [solved(None), solved(None), solved("7")], "7"),  # no answer is not a group
        (majority, [solved("1", end="length"), solved("1", end="length"), solved("7")], "7"),  # cut is not finished
        (best, [solved("1", 0.4), solved("1", 0.4), solved("2", 0.7)], "2"),
        (best, [solved("1", 0.4), solved("2")], "1"),  # unscored is not scored 0, nor better than scored
        (best, [solved("1"), solved("2"), solved("2")], "2"),  # nothing scored: majority
        (weighted, [solved("1", 0.4), solved("1", 0.4), solved("2", 0.7)], "1"),
        (weighted, [solved("1", 0.3), solved("1", 0.3), solved("2", 0.7)], "2"),
        (weighted, [solved("1", 0.1), solved("2"), solved("2"), solved("2")], "1"),  # unscored ones have no say
        (weighted, [solved("1"), solved("2"), solved("2")], "2"),
        (weighted, [solved("1", 0.0), solved("2", 0.0)], "1"),
        (majority, [solved(None)], None),
        (best, [], None),
        (weighted, [], None),
    ],
)
def test_selection(select, candidates, answer):
    result = select(candidates)
    assert result.answer == answer
    assert result.candidates == tuple(candidates)


def test_votes_report_their_share_and_return_the_best_text():
    result = weighted([solved("1", 0.2, text="poor"), solved("1", 0.4, text="good"), solved("2", 0.2)])
    assert result.best.text == "good"
    assert [result.weight, result.share] == pytest.approx([0.6, 0.75])


def test_chains_choose_within_then_across():
    # Within: chain 1 gives "1" (0.9 against 0.8), chains 2 and 3 give "2". Across: "2" has 0.5 + 0.5 against 0.9.
    chains = [[solved("1", 0.9), solved("2", 0.8)], [solved("2", 0.5)], [solved("2", 0.5)]]
    assert within_then_across(chains).answer == "2"
    # A flat vote would let the losing 0.8 in; here it would not change the winner, but it must change the weight.
    assert within_then_across(chains).weight == pytest.approx(1.0)


def test_an_unscored_chain_does_not_outvote_a_scored_one():
    assert within_then_across([[solved("right", 0.9)], [solved("wrong"), solved("wrong")]]).answer == "right"


def test_chains_keep_an_answer_that_a_later_revision_spoils():
    assert within_then_across([[solved("right", 0.9), solved("spoilt", 0.2)]]).answer == "right"


def test_unscored_chains_are_one_flat_majority():
    chains = [[solved("1"), solved("2"), solved("2")], [solved("1"), solved("1"), solved("3")]]
    assert within_then_across(chains).answer == "1"


# Sampling


@pytest.mark.parametrize("arm", ["majority(n=3)", "best_of_n(n=3)", "weighted_best_of_n(n=3)"])
def test_sampling_asks_once_for_all(arm):
    written = [solved("1"), solved("2"), solved("2")]
    scored = [replace(candidate, scores=(score,)) for candidate, score in zip(written, (0.9, 0.3, 0.3), strict=True)]
    needs_scores = arm != "majority(n=3)"
    requests, result = play(arm, [written, scored] if needs_scores else [written])
    assert requests[0] == Extend((Candidate(),) * 3)
    assert requests[1:] == ([Score(tuple(written))] if needs_scores else [])
    assert result.answer == {"majority(n=3)": "2"}.get(arm, "1")


@pytest.mark.parametrize("arm", ["single(model=large)", "majority(n=3, model=large)", "best_of_n(n=2, model=large)"])
def test_every_candidate_names_the_model_that_writes_it(arm):
    requests, _ = play(arm, [[solved("5")]] * (2 if "best" in arm else 1))
    assert requests[0].model == "large"
    assert {candidate.model for candidate in requests[0].candidates} == {"large"}


def test_another_models_solution_costs_what_it_is_worth():
    arm = parse("majority(n=3, model=large)")
    assert (arm.budget(), arm.budget({"large": 12.5}), arm.budget({"small": 1.0})) == (3, 37.5, 3)
    assert arm.models == {"large"}
    assert parse("majority(n=3)").models == {None}


def test_the_reference_model_has_one_spelling():
    arm = parse("majority(n=3, model=small)")
    assert arm.referring("small") == parse("majority(n=3)")
    assert arm.referring("large") == arm


def test_single_is_one_greedy_solution():
    requests, result = play("single", [[solved("5")]])
    assert requests == [Extend((Candidate(),), temperature=0)]
    assert result.answer == "5"


# Trees


class Tree:
    """A scripted world: each candidate's step is its parent's text and a letter; ``scores`` gives a text its score."""

    def __init__(self, depth: int, scores: dict[str, float] | None = None):
        self.depth = depth
        self.scores = scores or {}
        self.log: list[str] = []

    def solve(self, arm: str) -> Result:
        search = parse(arm).search()
        request = next(search)
        while True:
            assert isinstance(request, Extend | Score)
            reply = self.extend(request) if isinstance(request, Extend) else self.score(request)
            try:
                request = search.send(reply)
            except StopIteration as done:
                return done.value

    def extend(self, request: Extend) -> list[Candidate]:
        letters: dict[str, count] = {}
        candidates = [self.write(candidate, request, letters) for candidate in request.candidates]
        self.log.append(
            f"{'roll' if request.temperature == 0 else 'extend'} {' '.join(candidate.text for candidate in candidates)}"
        )
        return candidates

    def write(self, candidate: Candidate, request: Extend, letters: dict[str, count]) -> Candidate:
        for _ in range(request.steps or self.depth):
            if candidate.end:
                return candidate
            letter = "r" if request.temperature == 0 else chr(97 + next(letters.setdefault(candidate.text, count())))
            text = candidate.text + letter
            done = len(text) == self.depth
            candidate = replace(
                candidate,
                steps=tuple(text),
                tokens=tuple(map(ord, text)),
                end="stop" if done else None,
                answer=text if done else None,
            )
        return candidate

    def score(self, request: Score) -> list[Candidate]:
        candidates = [
            replace(
                candidate,
                scores=tuple(self.scores.get(candidate.text[: i + 1], 0.1) for i in range(len(candidate.steps))),
            )
            for candidate in request.candidates
        ]
        self.log.append("score " + " ".join(f"{candidate.text}={candidate.score:.1f}" for candidate in candidates))
        return candidates


# The two best first steps share a tree of DVTS, which therefore goes on with b and d where beam search keeps b and a.
SCORES = {"a": 0.7, "b": 0.8, "d": 0.3, "bb": 0.9, "ab": 0.6, "da": 0.6, "bba": 0.3, "bbb": 0.9, "dab": 0.5}


@pytest.mark.parametrize(("arm", "golden"), [("beam_search(n=4, m=2)", "beam"), ("dvts(n=4, m=2)", "dvts")])
def test_tree_equals_golden_file(arm, golden, request):
    tree = Tree(depth=3, scores=SCORES)
    result = tree.solve(arm)
    drawn = "\n".join(
        [*tree.log, f"candidates {' '.join(p.text for p in result.candidates)}", f"answer {result.answer}"]
    )
    assert drawn + "\n" == (request.path.parent / "golden" / f"{golden}.txt").read_text()


@pytest.mark.parametrize(
    "arm", ["beam_search(n=8, m=4)", "beam_search(n=9, m=3)", "dvts(n=8, m=4)", "lookahead(n=4, m=2, k=1)"]
)
def test_trees_never_write_more_than_their_budget(arm):
    tree, searched = Tree(depth=4), parse(arm)
    assert isinstance(searched, BeamSearch | Dvts | Lookahead)
    result = tree.solve(arm)
    assert len(result.candidates) == searched.n
    for line in tree.log:
        assert len(line.split()) - 1 <= searched.n


def test_lookahead_scores_its_rollouts_and_throws_them_away():
    # "a" looks better now, "b" leads somewhere better.
    tree = Tree(depth=3, scores={"a": 0.9, "ar": 0.1, "b": 0.2, "br": 0.8})
    tree.solve("lookahead(n=2, m=2, k=1)")
    assert tree.log[:4] == ["extend a b", "roll ar br", "score ar=0.1 br=0.8", "extend ba bb"]


def open_candidate(*steps: str) -> Candidate:
    return Candidate(steps=steps, tokens=tuple(map(ord, "".join(steps))))


@pytest.mark.parametrize(
    ("scored", "m", "slots", "kept"),
    [
        ([("a", 0.1), ("b", 0.9), ("c", 0.5), ("d", 0.2)], 2, 4, "b c b c"),
        ([("a", 0.9), ("a", 0.9), ("a", 0.9), ("b", 0.1)], 2, 4, "a b a b"),  # clones survive once
        ([("a", 0.9), ("a", 0.9)], 1, 2, "a a"),  # nothing else is left: go on from it twice, as sampling would
        ([("a", None), ("b", 0.1)], 2, 2, "b b"),  # unscored is worse than scored badly
        ([("a", 0.1), ("b", 0.9), ("c", 0.5)], 2, 3, "b c b"),
        ([], 2, 4, ""),
        ([("a", 0.9)], 2, 0, ""),
    ],
)
def test_survivors(scored, m, slots, kept):
    pairs = [
        (open_candidate(text), replace(open_candidate(text), scores=None if score is None else (score,)))
        for text, score in scored
    ]
    assert " ".join(candidate.text for candidate in survivors(pairs, m, slots)) == kept


@pytest.mark.parametrize(
    "arm",
    [
        "beam_search(n=4, m=2)",
        "dvts(n=4, m=2)",
        "lookahead(n=4, m=2, k=1)",
        "majority(n=4)",
        "weighted_best_of_n(n=4)",
        "revision(n=4, chains=2)",
        "repair(n=4)",
    ],
)
def test_a_search_whose_paths_are_all_cut_ends_without_an_answer(arm):
    with pytest.raises(StopIteration) as done:
        cut_everything(parse(arm).search())
    assert done.value.value.answer is None


def cut_everything(search: Search) -> None:
    request = next(search)
    for _ in range(10):
        request = search.send(
            [
                replace(candidate, end="length") if isinstance(request, Extend) else candidate
                for candidate in request.candidates
            ]
        )


# Revision


def test_revision_shows_each_chain_its_own_last_four_attempts():
    written: list[Candidate] = []

    def attempt(number: int) -> Candidate:
        return solved(str(number), text=f"attempt {number}")

    search = parse("revision(n=12, chains=2)").search()
    request = next(search)
    shown = []
    while isinstance(request, Extend):
        shown.append([candidate.earlier for candidate in request.candidates])
        reply = [attempt(len(written) + i) for i in range(2)]
        written += reply
        request = search.send(reply)
    assert [len(chain) for chain in shown[-1]] == [4, 4]
    assert shown[0] == [(), ()]
    texts = [[tuple(each.text for each in earlier) for earlier in chains] for chains in shown]
    assert texts[2] == [("attempt 0", "attempt 2"), ("attempt 1", "attempt 3")]
    assert texts[-1][0] == tuple(f"attempt {n}" for n in (2, 4, 6, 8))
    assert len(request.candidates) == 12


def test_a_cut_attempt_is_not_shown_to_the_next():
    search = parse("revision(n=2, chains=1)").search()
    next(search)
    request = search.send([solved(None, end="length")])
    assert request.candidates == (Candidate(earlier=()),)


# Repair


def judged(answer: str | None, score: float, finding: str = "") -> Candidate:
    return replace(solved(answer, score, text=f"attempt {answer}"), finding=finding)


def repairing(arm: str, *attempts: Candidate) -> tuple[list[tuple[Earlier, ...]], Result]:
    """Return what each attempt was shown, and the result."""
    replies = [[each] for attempt in attempts for each in (replace(attempt, scores=None, finding=""), attempt)]
    requests, result = play(arm, replies)
    shown = [request.candidates[0].earlier for request in requests if isinstance(request, Extend)]
    assert len(shown) == len(attempts)
    return shown, result


def test_repair_ends_with_the_first_solution_that_nothing_is_wrong_with():
    shown, result = repairing("repair(n=4)", judged("1", 0.0, "1 is wrong"), judged("2", 1.0))
    assert shown == [(), (Earlier("attempt 1", "1 is wrong"),)]
    assert (result.answer, result.weight, len(result.candidates)) == ("2", 1.0, 2)
    assert repairing("repair(n=4)", judged("1", 1.0))[0] == [()]


def test_repair_goes_on_while_a_part_of_the_tests_fails_and_returns_the_best_and_earliest():
    attempts = [judged(str(i), score, f"{i} is wrong") for i, score in enumerate((0.2, 0.7, 0.7, 0.6))]
    shown, result = repairing("repair(n=4)", *attempts)
    assert shown[1:] == [(Earlier(f"attempt {i}", f"{i} is wrong"),) for i in range(3)]
    assert (result.answer, result.weight) == ("1", 0.7)


def test_repair_shows_the_latest_attempt_with_a_finding():
    cut = solved(None, end="length")
    shown, result = repairing("repair(n=4)", cut, judged("1", 0.0, "1 is wrong"), cut, judged("2", 1.0))
    assert shown == [(), (), *[(Earlier("attempt 1", "1 is wrong"),)] * 2]
    assert result.answer == "2"


def test_repair_ends_where_nothing_is_said_of_a_solution():
    shown, result = repairing("repair(n=3)", solved("1"))
    assert shown == [()]
    assert result.answer == "1"


def test_repair_asks_the_model_that_it_names():
    search = parse("repair(n=2, model=large)").search()
    assert next(search).candidates[0].model == "large"
