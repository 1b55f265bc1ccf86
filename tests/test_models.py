"""The course's own models: what they compute, and that the shipped weights are what they say."""

import pytest
import torch

from lora_lab import accuracy
from lora_lab.material import DigitClassifier, TinyGPT, digits, pretrain
from lora_lab.material.models import ALPHABET, decode, encode, shipped_adapter, windows
from lora_lab.material.pretrain import held_out_loss, pretrain_tinygpt, save
from lora_lab.material.texts import python_prose, split_by_file


def small_gpt():
    torch.manual_seed(0)
    return TinyGPT(width=16, depth=2, heads=2, context=12).eval()


def test_the_shipped_digit_classifier_reads_digits_that_it_has_never_seen():
    task = digits()
    assert accuracy(DigitClassifier.pretrained(), task.X_test, task.y_test) > 0.97


def test_the_shipped_tinygpt_predicts_prose_that_it_has_never_seen():
    """1.1 nats on the Python that it was trained with; other versions have other prose. Guessing would be 4.6."""
    _, test = split_by_file(python_prose())
    assert held_out_loss(TinyGPT.pretrained(), encode(test[:30000])) < 1.5


def test_the_shipped_tinygpt_is_as_large_as_it_says_and_small_to_ship():
    assert 1e6 < sum(p.numel() for p in TinyGPT.pretrained().parameters()) < 2e6
    assert TinyGPT.weights_file().stat().st_size < 4e6


def test_saved_weights_come_back_in_half_precision(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lora_lab.material.models.WEIGHTS", tmp_path / "weights")
    torch.manual_seed(0)
    model = DigitClassifier()
    save(model, "a note")
    back = DigitClassifier.pretrained()
    assert not back.training and "a note" in capsys.readouterr().out
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value.half().float())


def test_every_character_has_a_number_and_comes_back():
    assert decode(encode(ALPHABET)) == ALPHABET and len(ALPHABET) == len(set(ALPHABET)) == 96


def test_a_character_that_tinygpt_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"'é' and 1 other; clean it with own_text"):
        encode("café – so")


def test_no_place_sees_the_characters_after_it():
    model, tokens = small_gpt(), encode("abcdefghijkl")[None]
    changed = tokens.clone()
    changed[0, 6:] = 3
    torch.testing.assert_close(model(tokens)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(tokens)[:, 6:], model(changed)[:, 6:])


def test_writing_goes_on_from_the_prompt_beyond_the_context_and_the_same_way_for_one_seed():
    model = small_gpt()
    text = model.write("ab", length=30, seed=1)
    assert text.startswith("ab") and len(text) == 32
    assert text == model.write("ab", length=30, seed=1) != model.write("ab", length=30, seed=2)


def test_what_is_remembered_of_a_text_changes_nothing_within_the_context_and_beyond():
    model = small_gpt()
    model.head.weight.data *= 100
    tokens, memories = encode("abcdefghijkl")[None], [[] for _ in model.blocks]
    with torch.no_grad():
        remembered = [model(tokens[:, :3], memories), *(model(tokens[:, i : i + 1], memories) for i in range(3, 12))]
    torch.testing.assert_close(torch.cat(remembered, 1), model(tokens))
    with pytest.raises(ValueError, match="a text of 13 characters"):
        model(tokens[:, :1], memories)
    written = encode("ab")
    for _ in range(20):
        written = torch.cat([written, model(written[-12:][None])[0, -1].argmax()[None]])
    assert model.write("ab", length=20, temperature=0.001) == decode(written)


@pytest.mark.parametrize(("options", "way_out"), [({"prompt": ""}, "newline"), ({"temperature": 0}, "0.01")])
def test_writing_refuses_what_it_cant_do(options, way_out):
    with pytest.raises(ValueError, match=way_out):
        small_gpt().write(**{"prompt": "a"} | options)


def test_windows_pair_each_character_with_the_next():
    X, y = windows("abcdefghij", length=3)
    assert [decode(row) for row in X] == ["abc", "def", "ghi"]
    assert [decode(row) for row in y] == ["bcd", "efg", "hij"]


def test_windows_are_drawn_by_their_seed_and_each_stays_inside_the_text():
    text = "".join(ALPHABET[i % 96] for i in range(100))
    X, y = windows(text, length=98, n=50, seed=1)
    assert X.shape == y.shape == (50, 98) and {decode(row)[0] for row in X} == {ALPHABET[0], ALPHABET[1]}
    assert torch.equal(X, windows(text, 98, 50, seed=1)[0]) and not torch.equal(X, windows(text, 98, 50, seed=2)[0])


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("abcdef", {"length": 0}, "length=0 is not a whole number from 1 up"),
        ("abcdef", {"length": 3, "n": 1.5}, "n=1.5 is not"),
        ({"file": "abc"}, {}, "a dict, not a string; split_by_file joins"),
    ],
)
def test_windows_refuse_what_they_cant_be_cut_from(text, options, said):
    with pytest.raises((ValueError, TypeError), match=said):
        windows(text, **options)


def test_a_text_longer_than_the_context_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"20 characters is longer than the 12 .* windows\(text, length=12\)"):
        small_gpt()(torch.zeros(1, 20, dtype=torch.long))


def test_a_model_that_diverged_says_so_when_it_should_write():
    model = small_gpt()
    torch.nn.init.constant_(model.head.weight, float("nan"))
    with pytest.raises(ValueError, match="its training diverged"):
        model.write("a")


def test_a_text_too_short_for_one_window_is_refused():
    with pytest.raises(ValueError, match=r"the text has 5 characters, but one piece takes 5 \+ 1"):
        windows("abcde", length=5)


def test_an_interrupted_pretraining_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    """Stopped after 2 of 4 steps and started again, it ends with the same weights as in one go."""
    monkeypatch.setattr(
        "lora_lab.material.pretrain.TinyGPT", lambda dropout: TinyGPT(16, 1, 2, context=16, dropout=dropout)
    )
    monkeypatch.setattr(
        "lora_lab.material.pretrain.python_prose", lambda: {f"file {i}": "some prose " * 50 for i in range(30)}
    )
    monkeypatch.setattr(pretrain, "SAVED_EVERY", 2)

    def stop(model, tokens):
        raise KeyboardInterrupt

    whole, note = pretrain_tinygpt(4, checkpoint=tmp_path / "one")
    assert "nats" in note
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr("lora_lab.material.pretrain.held_out_loss", stop)
        pretrain_tinygpt(4, checkpoint=tmp_path / "two")
    resumed, _ = pretrain_tinygpt(4, checkpoint=tmp_path / "two")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_higher_the_temperature_the_more_surprises():
    model = small_gpt()
    model.head.weight.data *= 20

    def kinds(temperature):
        return len(set(model.write("a", length=60, temperature=temperature)[1:]))

    assert kinds(0.01) < kinds(1) < kinds(100) and kinds(100) > 30
    likeliest = model(encode("a")[None])[0, -1].argmax()
    assert model.write("a", length=1, temperature=0.01) == "a" + decode(likeliest[None])


def test_writing_leaves_the_callers_random_numbers_and_gradients_alone():
    model = small_gpt()
    state = torch.random.get_rng_state()
    model.write("ab", length=3)
    windows("abcdefghij", length=3, n=2)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.is_grad_enabled()


def test_a_text_as_long_as_the_context_is_read_and_writing_looks_back_on_all_of_it_and_no_further():
    model = small_gpt()
    model.head.weight.data *= 100
    assert model(torch.zeros(1, 12, dtype=torch.long)).shape == (1, 12, 96)
    long = "abcdefghijklmnopqrst"
    next_one = model(encode(long[-12:])[None])[0, -1].argmax()
    assert model.write(long, length=1, temperature=0.001) == long + decode(next_one[None])


def test_a_last_piece_that_just_fits_is_taken_and_a_shorter_rest_is_not():
    assert [len(windows("abcdefghij"[:n], length=3)[0]) for n in (4, 6, 7, 9, 10)] == [1, 1, 2, 2, 3]
    assert windows("abcd", length=3, n=5)[0].tolist() == [encode("abc").tolist()] * 5


def test_the_place_of_a_character_matters():
    model = small_gpt()
    model.places.weight.data *= 100
    same = model(encode("aaaa")[None])[0]
    assert not torch.allclose(same[0], same[3], atol=1e-4)


def test_infinite_outputs_are_refused_like_nan():
    model = small_gpt()
    model.head.weight.data[5] = float("inf")
    with pytest.raises(ValueError, match="its training diverged"):
        model.write("a")


def test_dropout_acts_on_everything_while_training_and_on_nothing_afterwards():
    model, tokens = TinyGPT(width=16, depth=0, heads=2, context=12, dropout=0.9), encode("abcdef")[None]
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_an_adapter_that_does_not_ship_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="there is no adapter 'poems'; choose one of 'code', 'names', 'tales'"):
        shipped_adapter("poems")
    assert shipped_adapter("code").is_dir()


def test_tinygpt_writes_from_seed_zero_unless_told_otherwise():
    torch.manual_seed(0)
    model = TinyGPT(width=24, depth=1, heads=2, context=16).eval()
    written = model.write("The ", 30)
    assert written == model.write("The ", 30, seed=0) != model.write("The ", 30, seed=1)


def test_what_a_block_adds_starts_smaller_the_deeper_the_model():
    torch.manual_seed(0)
    spread = {name: p.std().item() for name, p in TinyGPT(depth=8).named_parameters() if p.dim() == 2}
    for name, found in spread.items():
        expected = 0.02 / 4 if name.endswith(("o.weight", "down.weight")) else 0.02
        assert found == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("depth", [0, 1], ids=["characters", "blocks"])
def test_dropout_in_tinygpt_takes_from_characters_and_from_blocks_and_only_in_training(depth):
    torch.manual_seed(0)
    model, tokens = TinyGPT(width=24, depth=depth, heads=2, context=16, dropout=0.5), torch.arange(5)[None]
    model.dropout.p = 0.0 if depth else 0.5
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
