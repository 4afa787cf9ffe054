"""metarun.rng: rows are functions of (key, index), and the numbers are as uniform as they should be.

The statistics are of fixed keys, so a test passes always or never. Bounds on chi^2 with d degrees of freedom are
d + 4 sqrt(2 d), four standard deviations.
"""

import hashlib
import itertools

import torch

from metarun import rng


def chi_squared(counts: torch.Tensor) -> tuple[float, float]:
    """The statistic of equally likely cells, and the bound it must stay under."""
    expected = counts.sum() / counts.numel()
    degrees = counts.numel() - 1
    return float(((counts - expected) ** 2 / expected).sum()), degrees + 4 * (2 * degrees) ** 0.5


def splitmix(x: int) -> int:
    """The SplitMix64 finaliser in Python's unbounded integers."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_key_is_the_start_of_a_sha256():
    digest = hashlib.sha256(b"3\x1ftrain\x1f7").digest()
    assert rng.key(3, "train", 7) == int.from_bytes(digest[:8], "little", signed=True)


def test_labels_are_not_merely_joined():
    assert len({rng.key(1, "ab"), rng.key(1, "a", "b"), rng.key(1, "b", "a"), rng.key(2, "ab")}) == 4


def test_bits_are_splitmix_in_unbounded_integers():
    key, mask, golden = rng.key(0, "x"), 2**64 - 1, 0x9E3779B97F4A7C15
    drawn = rng.bits(key, torch.tensor([0, 1, 2**40]), 2, 3)
    for row, index in enumerate((0, 1, 2**40)):
        start = splitmix(splitmix((index * golden + key) & mask))
        expected = [splitmix((start + (j + 1) * golden) & mask) for j in range(6)]
        assert [x & mask for x in drawn[row].flatten().tolist()] == expected


def test_rows_do_not_depend_on_the_batch():
    key = rng.key(0, "batch")
    whole = rng.bits(key, torch.arange(100), 4, 5)
    some = torch.tensor([99, 3, 3, 40])
    assert torch.equal(rng.bits(key, some, 4, 5), whole[some])


def test_more_positions_continue_the_row():
    key, indices = rng.key(0, "longer"), torch.arange(10)
    assert torch.equal(rng.bits(key, indices, 20)[:, :7], rng.bits(key, indices, 7))


def test_no_two_of_a_million_draws_are_equal():
    assert len(rng.bits(rng.key(0, "distinct"), torch.arange(1000), 1000).unique()) == 10**6


def test_each_bit_is_set_half_of_the_time():
    drawn = rng.bits(rng.key(0, "bits"), torch.arange(1000), 100).flatten()
    share = torch.stack([((drawn >> bit) & 1).double().mean() for bit in range(64)])
    assert float((share - 0.5).abs().max()) < 4 * 0.5 / 10**2.5


def test_uniform_numbers_fill_the_interval_evenly():
    for indices, shape in ((torch.arange(100_000), ()), (torch.arange(1), (100_000,)), (torch.arange(316), (316,))):
        drawn = rng.uniform(rng.key(0, "even"), indices, *shape)
        assert drawn.dtype == torch.float64 and float(drawn.min()) >= 0 and float(drawn.max()) < 1
        statistic, bound = chi_squared(torch.histc(drawn.flatten(), 100, 0, 1))
        assert statistic < bound


def test_neighbours_are_independent_along_both_axes():
    cells = (rng.uniform(rng.key(0, "pairs"), torch.arange(400), 400) * 10).long()
    for first, second in ((cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])):
        statistic, bound = chi_squared((first * 10 + second).flatten().bincount(minlength=100).double())
        assert statistic < bound


def test_all_orders_are_equally_likely():
    """Of sorted bits, whose first ones an episode takes."""
    drawn = rng.bits(rng.key(0, "orders"), torch.arange(24_000), 4).argsort(-1)
    assert torch.equal(drawn.sort(-1).values, torch.arange(4).expand(24_000, 4))
    codes = (drawn * torch.tensor([64, 16, 4, 1])).sum(-1)
    counts = [int((codes == a * 64 + b * 16 + c * 4 + d).sum()) for a, b, c, d in itertools.permutations(range(4))]
    statistic, bound = chi_squared(torch.tensor(counts, dtype=torch.float64))
    assert sum(counts) == 24_000 and statistic < bound


def test_the_global_generator_is_put_back():
    before = torch.get_rng_state()
    with rng.seeded_construction(5, "init"):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(rng.key(5, "init") & (2**63 - 1))))
    rng.bits(1, torch.arange(3), 4)
    assert torch.equal(torch.get_rng_state(), before)
