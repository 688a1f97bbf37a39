"""Hidden states at chosen layers and positions, read without running the layers after them."""

import numpy as np
import pytest
import torch

from router.backends import Engines, Usage
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.in_process.hidden import layers_of, read_hidden
from router.backends.in_process.prefill import PIECE
from router.backends.states import State, read_states
from router.errors import InvalidBundle, InvalidRequest
from router.prompt import Prompt
from router.solving.features import features_of, read_vectors, tried
from tests.support.tiny_engine import Engine, model


@pytest.mark.parametrize("tokens", [1, 40, 2 * PIECE + 3])
def test_they_are_those_of_the_whole_model(tokens):
    tiny = model()
    ids = torch.randint(1, 128, (tokens,), generator=torch.manual_seed(0)).tolist()
    states = [State(1, "last"), State(1, "mean"), State(2, "last")]
    with torch.inference_mode():
        *_, found = read_hidden(tiny.model, ids, states)
        first = tiny.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        second = tiny.model.layers[1](first[None], position_embeddings=tiny.model.rotary_emb(first[None], _places(ids)))
    assert found is not None
    second = second[0] if isinstance(second, tuple) else second
    expected = torch.cat([first[-1], first.mean(0), second.reshape(tokens, -1)[-1]])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _places(ids):
    return torch.arange(len(ids))[None]


def test_layers_after_the_last_wanted_one_are_not_run():
    tiny = model()
    ran = []
    for number, layer in enumerate(layers_of(tiny.model), 1):
        layer.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    with torch.inference_mode():
        list(read_hidden(tiny.model, [1, 2, 3], [State(1, "last")]))
        assert ran == [1]
        list(read_hidden(tiny.model, [1, 2, 3], [State(1, "last"), State(2, "last")]))
    assert ran == [1, 1, 2]


async def test_a_model_writes_the_same_after_it_was_read():
    engine, untouched = Engine(), Engine()
    await engine.generator.embed([Prompt.of("What?")], [State(1, "last")], usage=Usage())
    written, expected = [await each.write("What?", n=3) for each in (engine, untouched)]
    assert [candidate.text for candidate in written] == [candidate.text for candidate in expected]


def test_a_layer_that_the_model_lacks_is_an_error_that_names_it():
    with pytest.raises(InvalidRequest, match="layer=3, but the model has 2 layers"):
        list(read_hidden(model().model, [1], [State(3, "last")]))


@pytest.mark.parametrize(("layer", "layers", "after"), [(0.75, 30, 23), (0.6, 24, 15), (0.01, 24, 1), (1, 2, 1)])
def test_below_one_a_layer_is_a_share_of_them(layer, layers, after):
    assert State(layer).after(layers) == after


def test_settings_are_read_as_they_are_written():
    assert read_states("(layer=16, position=last+mean)") == (State(16, "last"), State(16, "mean"))
    assert all(features_of(name).needs == "hidden_states" for name in tried("hidden"))
    assert tried("text") == ["text"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("layer=16", "is not written like"),
        ("layer=1.5, position=last", "neither a number of layers nor a share"),
        ("layer=0, position=last", "neither a number of layers nor a share"),
        ("layer=2, position=first", "position=first is none of last, mean"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(InvalidBundle, match=words):
        features_of(f"hidden({settings})")


async def test_several_are_read_at_once_and_told_apart():
    names = ["hidden(layer=2, position=last)", "hidden(layer=1, position=last+mean)"]
    generator = FakeGenerator()
    found = await read_vectors(
        names, [Prompt.of("7 + 7 =")] * 3, Engines({"small": generator}, "small", FakeVerifier()), Usage()
    )
    assert {name: vectors.shape for name, vectors in found.items()} == {names[0]: (3, 3), names[1]: (3, 6)}
    assert generator.counted.calls == 1
