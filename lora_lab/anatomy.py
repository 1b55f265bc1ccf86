"""Looking inside weight matrices: their spectrum, their best low-rank versions, and what an update does to them.

Every function takes matrices (m, n) as they come, floating point, on any device.
"""

import torch

from .checks import whole_number


def spectrum(matrix):
    """The singular values of an (m, n) matrix, largest first: a tensor of shape (min(m, n),)."""
    return torch.linalg.svdvals(_matrix(matrix, "matrix"))


def low_rank_approximation(matrix, rank):
    """The (m, n) matrix of at most this rank that is nearest to ``matrix`` (m, n): the first terms of its SVD."""
    matrix = _matrix(matrix, "matrix")
    whole_number("rank", rank, 1, min(matrix.shape))
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def subspace_similarity(first, second):
    """How much of one column space lies in another: φ of shape (r1, r2) for matrices (m, r1) and (m, r2).

    ``φ[i-1, j-1]`` is ‖Uᵢᵀ Vⱼ‖² / min(i, j), where Uᵢ and Vⱼ hold the i and j leading left singular vectors of the
    two: 1 if the smaller space lies in the larger, near 0 if they have nothing in common (Hu et al. 2021,
    arXiv:2106.09685, section 7.2). With this course's A (in, rank) the columns are what the paper compares.
    """
    first, second = _matrix(first, "first"), _matrix(second, "second")
    if first.shape[0] != second.shape[0]:
        raise ValueError(
            f"the columns must live in one space, but first is {tuple(first.shape)} and second {tuple(second.shape)}; "
            "transpose one of them or compare layers of the same size"
        )
    U = torch.linalg.svd(first, full_matrices=False).U
    V = torch.linalg.svd(second, full_matrices=False).U
    overlap = (U.T @ V).square().cumsum(0).cumsum(1)
    i = torch.arange(1, U.shape[1] + 1, device=U.device)
    j = torch.arange(1, V.shape[1] + 1, device=U.device)
    return overlap / torch.minimum(i[:, None], j[None, :])


def amplification_factor(weight, delta, rank):
    """How strongly an update stresses directions that the weight has but does not stress: ‖ΔW‖ / ‖Uᵀ W V‖.

    U and V hold the ``rank`` leading singular vectors of ``delta`` (m, n), and ``weight`` (m, n) is W in the same
    orientation (Hu et al. 2021, section 7.3). Returns a float.
    """
    weight, delta = _matrix(weight, "weight"), _matrix(delta, "delta")
    if weight.shape != delta.shape:
        raise ValueError(
            f"weight is {tuple(weight.shape)} and delta {tuple(delta.shape)}, but they must agree; "
            "nn.Linear stores (out, in) and LoRALayer.delta() gives (in, out)"
        )
    whole_number("rank", rank, 1, min(delta.shape))
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    return (S.norm() / (U[:, :rank].T @ weight @ Vh[:rank].T).norm()).item()


def break_even_rank(m, n):
    """The rank at which A (m, r) and B (r, n) hold as many numbers as the (m, n) matrix itself: mn / (m + n).

    >>> round(break_even_rank(64, 10), 1)
    8.6
    """
    if m < 1 or n < 1:
        raise ValueError(f"a matrix of {m} × {n} has no numbers; both sides must be at least 1")
    return m * n / (m + n)


def _matrix(matrix, name):
    if not isinstance(matrix, torch.Tensor) or matrix.dim() != 2 or not matrix.is_floating_point():
        found = f"{matrix.dtype} {tuple(matrix.shape)}" if isinstance(matrix, torch.Tensor) else type(matrix).__name__
        raise ValueError(f"{name} must be a matrix, a floating-point tensor with two dimensions, not {found}")
    # The decompositions need float32 at least.
    return matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
