"""Keeps the candidates of a search as trees: shared steps, scores, and how each solution ended."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from router.solving.solver import Solution
from strategies import Candidate, Stage

MOST_STEPS = 3000  # most steps kept of one search
_DEEPEST = 40  # most levels of branches that are shown


@dataclass(slots=True)
class Vote:
    """The solutions with one answer: their number, the sum of their scores, and whether the answer wins."""

    answer: str
    solutions: int = 0
    scores: float = 0.0
    wins: bool = False


@dataclass(slots=True)
class _Node:
    """A step. ``ended``: a solution that ends with it; ``times``: how many of the final candidates do."""

    number: int
    text: str
    score: float | None = None
    children: "dict[str, _Node]" = field(default_factory=dict)
    ended: Candidate | None = None
    times: int = 0
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """Steps in a row, up to where solutions differ.

    number    number of its first step, which stays the same while the tree grows
    steps     (text, score); the score is None until the verifier has scored the step
    children  the branches that follow
    ended     a solution that ends here; None: there is none
    times     how many of the final candidates end here
    open      whether it is being written. Where it is not, and no solution ends here, the search dropped the branch
    deeper    number of branches below that are not shown
    """

    number: int
    steps: Sequence[tuple[str, float | None]]
    children: "Sequence[Branch]"
    ended: Candidate | None
    times: int
    open: bool
    chosen: bool
    deeper: int = 0


class Trees:
    """The trees of a search, one for each of its stages, numbered from 1.

    left_out  number of solutions that there was no room for
    """

    def __init__(self) -> None:
        self.left_out = 0
        self.votes: dict[int, list[Vote]] = {}
        self._roots: dict[int, _Node] = {}
        self._open: set[int] = set()
        self._steps = 0

    @property
    def stages(self) -> list[int]:
        return sorted(self._roots)

    def add(self, stage: int, candidates: Iterable[Candidate]) -> None:
        """Add the candidates that a stage has received."""
        self._open.clear()
        root = self._roots.setdefault(stage, _Node(0, ""))
        for candidate in candidates:
            path = self._path(root, candidate)
            if path is None:
                self.left_out += 1
            elif path and candidate.end:
                path[-1].ended = candidate
            elif path:
                self._open.add(path[-1].number)

    def settle(self, solution: Solution) -> None:
        """Finish the trees when the search is over: close all branches, count votes, mark the chosen solution."""
        self._open.clear()
        result = solution.result
        shown = result.shown.steps if result.shown else ()
        stages = result.stages or (Stage(solution.decision.arm, result),)
        for number, stage in enumerate(stages, start=1):
            root = self._roots.setdefault(number, _Node(0, ""))
            for steps, times in Counter(each.steps for each in stage.result.candidates).items():
                if path := list(_walk(root, steps)):
                    path[-1].times = times
            best = stage.result.best or stage.result.unanswered or result.unanswered
            if shown and best and best.steps == shown:
                for node in _walk(root, shown):
                    node.chosen = True
                shown = ()
            self.votes[number] = _votes(stage, solution)

    def branches(self, stage: int) -> list[Branch]:
        root = self._roots[stage]
        return [self._branch(node, 1) for node in root.children.values()]

    def _path(self, root: _Node, candidate: Candidate) -> list[_Node] | None:
        """Return the nodes of a candidate's steps, new where needed; None where there is no room for them."""
        path, node = list[_Node](), root
        for i, text in enumerate(candidate.steps):
            child = node.children.get(text)
            if child is None:
                if self._steps >= MOST_STEPS:
                    return None
                self._steps += 1
                child = node.children[text] = _Node(self._steps, text)
            if candidate.scores and i < len(candidate.scores):
                child.score = candidate.scores[i]
            path.append(child)
            node = child
        return path

    def _branch(self, first: _Node, depth: int) -> Branch:
        steps, node = [(first.text, first.score)], first
        while len(node.children) == 1 and node.ended is None and node.number not in self._open:
            (node,) = node.children.values()
            steps.append((node.text, node.score))
        deepest = depth == _DEEPEST
        return Branch(
            first.number,
            steps,
            [] if deepest else [self._branch(child, depth + 1) for child in node.children.values()],
            node.ended,
            node.times,
            node.number in self._open,
            first.chosen,
            deeper=len(node.children) if deepest else 0,
        )


def _walk(root: _Node, steps: Sequence[str]) -> Iterator[_Node]:
    """Yield the nodes of these steps, as far as they are kept."""
    node: _Node | None = root
    for text in steps:
        node = node.children.get(text) if node else None
        if node:
            yield node


def _votes(stage: Stage, solution: Solution) -> list[Vote]:
    """Return the votes of each answer, the most frequent first."""
    votes: dict[str, Vote] = {}
    for candidate in stage.result.candidates:
        if candidate.answer is not None and candidate.finished:
            vote = votes.setdefault(candidate.answer, Vote(candidate.answer))
            vote.solutions += 1
            vote.scores += candidate.score or 0.0
    if (best := solution.result.best) and best.answer in votes:
        votes[best.answer].wins = True
    return sorted(votes.values(), key=lambda vote: (-vote.solutions, -vote.scores))
