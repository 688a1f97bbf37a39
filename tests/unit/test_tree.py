"""The trees that a watched search is shown as."""

from router.service.ui import tree
from router.service.ui.tree import Trees
from strategies import Candidate


def candidate(*steps: str, **more) -> Candidate:
    return Candidate(steps, **more)


def test_candidates_part_where_their_steps_do():
    trees = Trees()
    trees.add(1, [candidate("a", "b", "c", end="stop"), candidate("a", "b", "d", end="stop")])
    (branch,) = trees.branches(1)
    assert [text for text, _ in branch.steps] == ["a", "b"]
    assert [[text for text, _ in child.steps] for child in branch.children] == [["c"], ["d"]]


def test_scores_come_later():
    trees = Trees()
    trees.add(1, [candidate("a")])
    trees.add(1, [candidate("a", scores=(0.4,))])
    assert trees.branches(1)[0].steps == [("a", 0.4)]


def test_what_is_not_in_the_latest_round_is_not_open():
    trees = Trees()
    trees.add(1, [candidate("a"), candidate("b")])
    assert [branch.open for branch in trees.branches(1)] == [True, True]
    trees.add(1, [candidate("b", "c")])
    assert [branch.open for branch in trees.branches(1)] == [False, True]


def test_a_branch_keeps_its_number_while_the_tree_grows():
    trees = Trees()
    trees.add(1, [candidate("a", "b")])
    before = trees.branches(1)[0].number
    trees.add(1, [candidate("a", "c")])
    assert trees.branches(1)[0].number == before


def test_stages_have_trees_of_their_own():
    trees = Trees()
    trees.add(1, [candidate("a", end="stop")])
    trees.add(2, [candidate("a", end="stop")])
    assert trees.stages == [1, 2]
    assert len(trees.branches(2)) == 1


def test_there_is_room_for_so_many_steps(monkeypatch):
    monkeypatch.setattr(tree, "MOST_STEPS", 3)
    trees = Trees()
    trees.add(1, [candidate("a", "b"), candidate("c", "d", end="stop"), candidate("a", "b", end="stop")])
    assert trees.left_out == 1
    assert len(trees.branches(1)) == 2


def test_many_branches_within_branches_are_cut():
    trees = Trees()
    steps = [str(i) for i in range(500)]
    trees.add(1, [candidate(*steps[:i], "end", end="stop") for i in range(500)])
    depth, branches = 0, trees.branches(1)
    while branches:
        depth, branches = depth + 1, [each for branch in branches for each in branch.children]
    assert depth == 40
