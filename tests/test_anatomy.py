"""Looking inside weights, claim by claim."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_lab import amplification_factor, break_even_rank, low_rank_approximation, set_seed, spectrum
from lora_lab import subspace_similarity as similarity


@st.composite
def matrices(draw):
    set_seed(draw(st.integers(0, 2**16)))
    return torch.randn(draw(st.integers(1, 20)), draw(st.integers(1, 20)))


@given(matrices(), st.data())
def test_the_error_of_the_best_approximation_is_what_the_spectrum_leaves_out(matrix, data):
    rank = data.draw(st.integers(1, min(matrix.shape)))
    error = (matrix - low_rank_approximation(matrix, rank)).norm()
    torch.testing.assert_close(error, spectrum(matrix)[rank:].norm(), rtol=1e-3, atol=1e-4)


@given(matrices())
def test_no_other_product_of_the_same_rank_comes_nearer(matrix):
    rank = min(2, *matrix.shape)
    A = torch.randn(len(matrix), rank)
    other = A @ torch.linalg.lstsq(A, matrix).solution  # the best for these random columns
    assert (matrix - low_rank_approximation(matrix, rank)).norm() <= (matrix - other).norm() + 1e-4


def test_a_matrix_of_rank_r_is_its_own_approximation_of_rank_r():
    matrix = torch.randn(30, 3) @ torch.randn(3, 20)
    torch.testing.assert_close(low_rank_approximation(matrix, 3), matrix, rtol=1e-3, atol=1e-4)
    assert (spectrum(matrix)[3:] < 1e-4 * spectrum(matrix)[0]).all()


def test_a_space_is_wholly_similar_to_itself_and_to_any_that_contains_it():
    first = torch.randn(50, 4)
    wider = torch.cat([first * 100, torch.randn(50, 3)], dim=1)
    torch.testing.assert_close(similarity(first, first).diagonal(), torch.ones(4))
    torch.testing.assert_close(similarity(first, wider)[3, 6], torch.tensor(1.0))
    assert similarity(first, wider).shape == (4, 7)


def test_random_spaces_have_little_in_common():
    assert similarity(torch.randn(1000, 8), torch.randn(1000, 64))[7, 63] < 0.1


def test_similarity_is_what_the_papers_formula_says():
    first, second = torch.randn(20, 5), torch.randn(20, 6)
    U, V = (torch.linalg.svd(matrix).U for matrix in (first, second))
    for i, j in ((3, 4), (5, 2)):
        by_hand = (U[:, :i].T @ V[:, :j]).norm() ** 2 / min(i, j)
        torch.testing.assert_close(similarity(first, second)[i - 1, j - 1], by_hand)


def test_an_update_along_a_weak_direction_of_the_weight_amplifies_it():
    weight = torch.diag(torch.tensor([10.0, 5.0, 0.5]))
    delta = torch.zeros(3, 3)
    delta[2, 2] = 2.0
    assert amplification_factor(weight, delta, rank=1) == pytest.approx(2 / 0.5)
    assert amplification_factor(weight.T, delta.T, rank=1) == pytest.approx(2 / 0.5)


@pytest.mark.parametrize(("m", "n", "rank"), [(64, 10, 8.6), (768, 768, 384), (1, 1, 0.5)])
def test_at_the_break_even_rank_the_adapter_is_as_large_as_the_layer(m, n, rank):
    assert break_even_rank(m, n) == pytest.approx(rank, abs=0.05)
    assert break_even_rank(m, n) * (m + n) == pytest.approx(m * n)


def test_bfloat16_is_decomposed_in_float32():
    assert spectrum(torch.randn(4, 4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: spectrum(torch.ones(3)), r"matrix must be a matrix.*torch.float32 \(3,\)"),
        (lambda: spectrum([[1.0]]), "not list"),
        (lambda: spectrum(torch.ones(3, 3, dtype=torch.int64)), "torch.int64"),
        (lambda: low_rank_approximation(torch.ones(3, 5), 4), "rank=4 is not a whole number from 1 to 3"),
        (lambda: low_rank_approximation(torch.ones(3, 5), 0), "rank=0"),
        (lambda: similarity(torch.ones(3, 2), torch.ones(4, 2)), r"first is \(3, 2\) and second \(4, 2\)"),
        (lambda: amplification_factor(torch.ones(3, 2), torch.ones(2, 3), 1), r"weight is \(3, 2\) and delta \(2, 3\)"),
        (lambda: break_even_rank(0, 4), "0 × 4"),
    ],
)
def test_bad_input_is_refused_by_name_and_value(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def test_the_amplification_compares_frobenius_norms_of_the_whole_update_and_of_what_the_weight_does_in_its_space():
    weight, delta = torch.randn(7, 5), torch.randn(7, 5)
    U, _, Vh = torch.linalg.svd(delta)
    by_hand = delta.norm() / (U[:, :2].T @ weight @ Vh[:2].T).norm()
    assert amplification_factor(weight, delta, rank=2) == pytest.approx(by_hand.item(), rel=1e-4)


def test_a_trained_weight_can_be_looked_at_as_it_is_and_the_results_carry_no_gradient():
    weight, delta = torch.nn.Parameter(torch.randn(6, 4)), torch.randn(6, 4, requires_grad=True)
    results = spectrum(weight), low_rank_approximation(weight, 2), similarity(weight, delta)
    assert not any(result.requires_grad for result in results)
    assert isinstance(amplification_factor(weight, delta, 1), float)


def test_double_precision_is_kept():
    matrix = torch.randn(4, 3, dtype=torch.float64)
    assert {f.dtype for f in (spectrum(matrix), low_rank_approximation(matrix, 2), similarity(matrix, matrix))} == {
        torch.float64
    }
    torch.testing.assert_close(low_rank_approximation(matrix, 3), matrix, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("m", "n"), [(0, 4), (4, 0), (-3, 4), (4, -3), (-3, -4)])
def test_a_matrix_without_numbers_breaks_even_nowhere(m, n):
    with pytest.raises(ValueError, match=f"a matrix of {m} × {n} has no numbers"):
        break_even_rank(m, n)


@pytest.mark.parametrize("rank", [0, 4, 2.5])
def test_an_update_is_amplified_in_as_many_directions_as_it_has(rank):
    with pytest.raises(ValueError, match=f"rank={rank}"):
        amplification_factor(torch.randn(3, 5), torch.randn(3, 5), rank)
