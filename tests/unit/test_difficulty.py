import io
from functools import cache

import joblib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.naive_bayes import GaussianNB

from difficulty import CANDIDATES, DifficultyModel, find_edges, levels_of
from difficulty.compare import compare, measure
from difficulty.features import FORM, NAMES, describe, description, numbers_in, tokens, words
from difficulty.lean import TextLogistic


def world(n=200, seed=0):
    """Prompts whose difficulty is the number of terms; hidden states know the pass rate."""
    rng = np.random.default_rng(seed)
    terms = rng.integers(2, 12, n)
    rates = rng.binomial(16, 1 / (1 + np.exp(terms - 6))) / 16
    prompts = ["What is " + " + ".join(map(str, rng.integers(1, 10, t))) + f"? ({i})" for i, t in enumerate(terms)]
    hidden = np.hstack([rng.normal(size=(n, 8)), rates[:, None] + rng.normal(0, 0.1, (n, 64))]).astype("float32")
    return prompts, hidden, rates


def inputs(name, prompts, hidden):
    return hidden if DifficultyModel(name).input == "hidden" else prompts


def sizes(statistics):
    return np.bincount(levels_of(statistics, find_edges(statistics)), minlength=6)[1:].tolist()


def test_levels_without_ties_are_quintiles_easiest_first():
    statistics = np.random.default_rng(0).permutation(np.linspace(0, 1, 500))
    levels = levels_of(statistics, find_edges(statistics))
    assert np.bincount(levels)[1:].tolist() == [100] * 5
    assert [statistics[levels == level].min() for level in (1, 2, 3, 4)] > [
        statistics[levels == level].max() for level in (2, 3, 4, 5)
    ]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # pass rate in sixteenths → prompts; expected level sizes, easiest first
        ({0: 160, 4: 20, 8: 20, 12: 20, 16: 120}, [120, 20, 20, 20, 160]),
        ({0: 40, 1: 40, 8: 20, 9: 20, 12: 40, 16: 40}, [40, 40, 40, 40, 40]),
        ({0: 100, 2: 10, 4: 10, 6: 10, 8: 10, 10: 10, 12: 10}, [20, 10, 10, 20, 100]),
    ],
)
def test_ties_share_a_level_and_every_level_stays_populated(counts, expected):
    statistics = np.repeat([value / 16 for value in counts], list(counts.values()))
    found = sizes(statistics)
    assert sorted(found) == sorted(expected)
    assert found[-1] == expected[-1]


def test_edges_fall_and_lie_between_values():
    edges = find_edges(np.repeat(np.arange(17) / 16, 10))
    assert np.all(np.diff(edges) < 0)
    assert not np.isin(edges, np.arange(17) / 16).any()


def test_too_few_groups_are_refused_with_what_they_are():
    statistics = np.repeat([0, 0.5, 1], [60, 20, 40])
    with pytest.raises(ValueError, match=r"3 different values, 50% .* lowest 0 and 33% .* level 4 .* too small"):
        find_edges(statistics)


def test_a_level_of_a_handful_is_refused():
    statistics = np.repeat([0, 0.25, 0.5, 0.75, 1], [100, 100, 3, 100, 100])
    with pytest.raises(ValueError, match="five levels of at least 5"):
        find_edges(statistics)
    assert len(find_edges(statistics, smallest=3)) == 4


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.long
def test_scikit_learn_conventions(name):
    prompts, hidden, rates = world(120)
    features = inputs(name, prompts, hidden)
    model = DifficultyModel(name)
    before = dict(vars(model))
    assert clone(model).get_params() == model.get_params() == {"candidate": name, "edges": None, "seed": 0}
    assert model.fit(features, rates) is model
    assert {key: vars(model)[key] for key in before} == before
    assert {key for key in vars(model) if key not in before and not key.endswith("_")} == set()
    probabilities = model.predict_proba(features)
    assert probabilities.shape == (120, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probabilities.min() > 0
    assert model.predict(features).tolist() == (1 + probabilities.argmax(axis=1)).tolist()
    np.testing.assert_array_equal(clone(model).fit(features, rates).predict_proba(features), probabilities)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_fitted_model_is_small_and_survives_joblib(name):
    prompts, hidden, rates = world(120)
    features = inputs(name, prompts, hidden)
    model = DifficultyModel(name).fit(features, rates)
    file = io.BytesIO()
    joblib.dump(model, file, compress=3)
    assert file.tell() < 200_000
    file.seek(0)
    probabilities = model.predict_proba(features[:3])
    read = joblib.load(file)
    np.testing.assert_array_equal(read.predict_proba(features[:3]), probabilities)
    np.testing.assert_allclose([read.probabilities(each) for each in features[:3]], probabilities)


@cache
def by_scikit_learn(*edges):
    """text_logistic as scikit-learn alone fits it, on prompts of several kinds, to the levels between these edges."""
    prompts, _, rates = world(150)
    prompts = [*prompts[:100], *(prompt.replace("What is", "Réduis (très vite!) ²½") for prompt in prompts[100:])]
    _, columns = np.unique(levels_of(rates, edges), return_inverse=True)
    estimator = CANDIDATES["text_logistic"](0)
    return CalibratedClassifierCV(estimator, method="temperature", ensemble=False).fit(prompts, columns)


FIVE, TWO = (0.9, 0.6, 0.4, 0.1), (2, 0.5, -1, -2)
PROMPTS = st.text(max_size=300) | st.text("0123456789.,+-*/^=×÷− ()?!{}\n٣²½ſßİdeisuvWahtR", max_size=300)


@settings(max_examples=300)
@given(st.text(st.characters(codec="ascii")))
def test_ascii_is_read_as_any_text_is(text):
    """By other patterns, which are faster."""
    assert tokens(text + " é") == (*tokens(text), "é")
    assert words(text + " é") == [*words(text), "é"]
    assert numbers_in(text + " é") == numbers_in(text)


@settings(max_examples=300)
@given(st.lists(PROMPTS, max_size=4))
@example(["Stop.", "Stop. ", "Stop.\u3000now", "\ud800?\n", ".!", ""])
def test_prompts_are_described_together_as_alone(prompts):
    """To the last digits, where numpy's logarithms and sums may differ from Python's. No count is off by one."""
    alone = np.array([description(prompt) for prompt in prompts]).reshape(-1, len(NAMES))
    np.testing.assert_allclose(describe(prompts), alone, rtol=0, atol=1e-12)


def test_each_feature_is_what_its_name_says():
    prompt = "Buy 1,200 (or 0.5) pens + 7 pens {more}:\n10*7 − 1 = x - y/2? Yes!"
    expected = {
        "characters": 65,
        "words": 8,
        "different_words": 7,
        "word_length": 22 / 8,
        "brackets": 2,
        "sentences": 2,
        "lines": 1,
        "numbers": 7,
        "different_numbers": 6,
        "digits": 4 + 2 + 1 + 2 + 1 + 1 + 1,
        "most_digits": 4,
        "mean_digits": 12 / 7,
        "two_longest": 4 + 2,
        "over_one_digit": 3,
        "over_two_digits": 1,
        "up_to_one": 1,
        "round": 2,
        "total_log": np.log([1201, 6, 8, 11, 8, 2, 3]).sum(),
        "largest_log": np.log(1201),
        "smallest_log": np.log(2),
        "mean_log": np.log([1201, 6, 8, 11, 8, 2, 3]).mean(),
        "operators": 6,
        "different_operators": 6,
        "plus": 1,
        "minus": 2,
        "times": 1,
        "divided": 1,
    }
    assert list(expected) == list(NAMES)
    for values in (description(prompt), describe([prompt])[0]):
        assert dict(zip(NAMES, np.expm1(values), strict=True)) == pytest.approx(expected)


def test_form_does_not_depend_on_the_size_of_numbers():
    small, large = (dict(zip(NAMES, description(f"Add {number} and 3."), strict=True)) for number in ("7", "80,000"))
    differing = {name for name in NAMES if small[name] != large[name]}
    assert differing & set(FORM) == {"characters"}
    assert all(NAMES[column] == name for name, column in FORM.items())


@pytest.mark.parametrize("prompts", [[], [" "], ["", " ", ""], ["", "What is", "1 + 2?", " ", "What is 3?", ""]])
def test_prompts_are_predicted_together_as_alone(prompts):
    """Also where some have no words, and where one ends with a phrase's first word and the next one begins with its
    second."""
    lean = TextLogistic.of(by_scikit_learn(*FIVE))
    alone = np.array([lean.probabilities(prompt) for prompt in prompts]).reshape(-1, 5)
    np.testing.assert_allclose(lean.predict_proba(prompts), alone, rtol=0, atol=1e-12)


def test_weights_of_other_features_are_refused():
    features = len(NAMES) + 1
    with pytest.raises(ValueError, match=f"weighs {features} features, but a description has {len(NAMES)}"):
        TextLogistic(np.zeros((features, 5)), {}, np.zeros((0, 5)), np.zeros(0), np.zeros(5))


@pytest.mark.parametrize(("classes", "edges"), [(5, FIVE), (2, TWO)])
@settings(max_examples=200, deadline=None)
@given(prompt=PROMPTS)
@example(prompt="")
@example(prompt="What is " + " + ".join(["7"] * 4000))
@example(prompt="9" * 8000)
def test_the_lean_model_computes_what_scikit_learn_does(classes, edges, prompt):
    fitted = by_scikit_learn(*edges)
    found = TextLogistic.of(fitted).predict_proba([prompt, "What is 1 + 2?"])
    assert found.shape == (2, classes)
    np.testing.assert_allclose(found, fitted.predict_proba([prompt, "What is 1 + 2?"]), rtol=0, atol=1e-12)


def test_models_saved_as_scikit_learn_fitted_them_become_lean_when_they_are_read():
    prompts, _, rates = world(150)
    model = DifficultyModel(edges=FIVE).fit(prompts, rates)
    assert isinstance(model.estimator_, TextLogistic)
    model.estimator_ = by_scikit_learn(*FIVE)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    read = joblib.load(file)
    assert isinstance(read.estimator_, TextLogistic)
    np.testing.assert_allclose(read.predict_proba(prompts), model.predict_proba(prompts), rtol=0, atol=1e-12)


def test_levels_missing_from_training_keep_their_column():
    prompts, _, rates = world(120)
    some = [i for i, rate in enumerate(rates) if not 0.3 < rate < 0.7]
    model = DifficultyModel("text_logistic", edges=[0.8, 0.6, 0.4, 0.2]).fit([prompts[i] for i in some], rates[some])
    probabilities = model.predict_proba(prompts)
    assert probabilities.shape == (120, 5)
    assert probabilities[:, 2].max() < 0.01 < probabilities[:, 0].max()
    one_by_one = [model.probabilities(prompt) for prompt in prompts]
    np.testing.assert_allclose(one_by_one, probabilities, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rates", [[1.0] * 6, [1.0, 1.0, 1.0, 0.0]])
def test_one_level_or_a_lone_prompt_still_fits(rates):
    model = DifficultyModel("prompt_length", edges=[0.8, 0.6, 0.4, 0.2])
    assert model.fit(["a" * (i + 1) for i in range(len(rates))], rates).predict(["a"]) == [1]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown candidate 'magic'"):
        DifficultyModel("magic").fit(["a"], [1.0])
    with pytest.raises(ValueError, match="list of strings"):
        DifficultyModel().fit([1, 2], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        DifficultyModel("hidden_logistic").fit([1.0, 2.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="2 prompts but 1 statistics"):
        DifficultyModel().fit(["a", "b"], [0.0])


def test_calibration_repairs_an_overconfident_candidate(monkeypatch):
    monkeypatch.setattr("difficulty.model.CANDIDATES", {"hidden_sure": lambda seed: GaussianNB()})
    rng = np.random.default_rng(0)
    rates = rng.uniform(size=600)
    # Forty copies of one weak clue: naive Bayes takes them for forty independent ones.
    hidden = np.repeat(rates[:, None] + rng.normal(0, 0.5, (600, 1)), 40, axis=1)
    model = DifficultyModel("hidden_sure").fit(hidden[:300], rates[:300])
    raw = GaussianNB().fit(hidden[:300], levels_of(rates[:300], model.edges_))
    calibrated = measure(model.predict_proba(hidden[300:]), rates[300:], model.edges_)
    uncalibrated = measure(raw.predict_proba(hidden[300:]), rates[300:], model.edges_)
    assert calibrated.ece < 0.1 < uncalibrated.ece
    assert calibrated.log_loss < np.log(5) < uncalibrated.log_loss


def test_calibration_holds_where_prompts_come_sorted_by_task():
    rng = np.random.default_rng(0)
    tasks = np.repeat(np.arange(5), 60)
    rates = rng.uniform(size=300)
    # What tells the level is another feature in every task: a fold that is one whole task learns nothing of it.
    hidden = np.eye(5)[tasks].repeat(20, axis=1) * (rates[:, None] + rng.normal(0, 0.1, (300, 1)) - 0.5)
    model = DifficultyModel("hidden_logistic").fit(hidden, rates)
    predicted = measure(model.predict_proba(hidden), rates, model.edges_)
    assert predicted.log_loss < 0.9
    assert predicted.ece < 0.15


@pytest.mark.long
def test_comparison_ranks_by_log_loss_and_finds_the_signal():
    prompts, hidden, rates = world(250)
    names = ["prior", "text_logistic", "hidden_logistic"]
    results = compare(prompts, {"hidden": hidden}, rates, find_edges(rates), names=names)
    losses = {result.name: result.quality.log_loss for result in results}
    assert list(losses) == sorted(losses, key=losses.__getitem__)
    assert results[0].name == "hidden_logistic"  # the only one that sees the pass rate itself
    assert losses["text_logistic"] < losses["prior"] - 0.2
    assert results[0].quality.spearman > 0.8
    without = compare(prompts, {}, rates, find_edges(rates), names=["prior", "hidden_logistic"])
    assert [result.name for result in without] == ["prior"]


def test_of_several_vectors_each_is_tried():
    prompts, hidden, rates = world(250)
    noise = np.random.default_rng(0).normal(size=hidden.shape)
    vectors = {"noise": noise, "hidden": hidden}
    results = compare(prompts, vectors, rates, find_edges(rates), names=["prior", "hidden_logistic", "hidden_ridge"])
    assert [(result.name, result.vectors) for result in results] == [
        ("hidden_ridge", "hidden"),
        ("prior", ""),
        ("hidden_ridge", "noise"),
    ]


def test_ridge_is_sure_of_what_it_sees_and_unsure_of_noise():
    _, hidden, rates = world(400)
    edges = find_edges(rates)
    for noise, sure in ((0.0, True), (5.0, False)):
        seen = hidden + np.random.default_rng(0).normal(0, noise, hidden.shape) if noise else hidden
        model = DifficultyModel("hidden_ridge", edges=edges.tolist()).fit(seen[:200], rates[:200])
        quality = measure(model.predict_proba(seen[200:]), rates[200:], edges)
        assert (quality.log_loss < 1) == sure
        assert quality.ece < 0.15


def test_ridge_makes_nothing_of_noise():
    rng = np.random.default_rng(0)
    rates, noise = rng.integers(0, 17, 60) / 16, rng.normal(size=(60, 300))
    model = DifficultyModel("hidden_ridge").fit(noise[:30], rates[:30])
    assert measure(model.predict_proba(noise[30:]), rates[30:], model.edges_).log_loss < 2.5  # even odds: 1.6


def test_out_of_fold_predictions_do_not_see_their_own_prompt():
    rng = np.random.default_rng(0)
    prompts, rates = [f"prompt {i}" for i in range(200)], rng.integers(0, 17, 200) / 16
    # Hidden states that identify each prompt and say nothing else: memorising them must not help.
    hidden = np.eye(200, dtype="float32")
    edges = find_edges(rates)
    doubled = compare(
        prompts * 2, {"all": np.vstack([hidden] * 2)}, np.tile(rates, 2), edges, names=["prior", "hidden_logistic"]
    )
    losses = {result.name: result.quality.log_loss for result in doubled}
    assert losses["hidden_logistic"] > losses["prior"] - 0.05


def test_measures_on_known_predictions():
    rates = [0.95, 0.7, 0.5, 0.3, 0.05]
    edges = [0.8, 0.6, 0.4, 0.2]
    perfect = measure(np.eye(5), rates, edges)
    assert (perfect.ece, perfect.kappa, perfect.accuracy) == (0, 1, 1)
    assert perfect.spearman == pytest.approx(1)
    assert measure(np.eye(5)[::-1], rates, edges).kappa == pytest.approx(-1)
    even = measure(np.full((5, 5), 0.2), rates, edges)
    assert even.log_loss == pytest.approx(np.log(5))
    assert even.spearman == 0
    assert measure(np.tile([0.6, 0.1, 0.1, 0.1, 0.1], (5, 1)), rates, edges).ece == pytest.approx(0.4)
