"""Relay attention is plain attention taken apart: whatever the shapes, masks and types, and by either way to compute."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")

from hypothesis import given, settings  # noqa: E402 - after it is known that it is there
from hypothesis import strategies as st  # noqa: E402

from geovl.segmenters.text_as_mask import relay  # noqa: E402
from geovl.segmenters.text_as_mask.relay import (  # noqa: E402
    Attended,
    attend,
    blend,
    context_mask,
    fused_works,
    merge,
    relay_attention,
    system_attention,
)

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
fused = pytest.mark.skipif(not fused_works(), reason="this torch has no fused operator")


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def full(query, key, value, scale, seen=None):
    """Attention as it is defined, in float64: query (H, L, d), key (H_kv, T, d), seen (L, T)."""
    group = query.shape[0] // key.shape[0]
    key, value = (part.double().repeat_interleave(group, 0) for part in (key, value))
    scores = query.double() @ key.transpose(1, 2) * scale
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


def seen_by(length, queries):
    """What the last queries of a text see, (queries, length)."""
    return torch.tensor([[column <= row for column in range(length)] for row in range(length - queries, length)])


@st.composite
def shapes(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    queries = [draw(st.integers(1, length)) for length in lengths]
    heads, group, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([4, 8]))
    return lengths, queries, draw(st.integers(0, 12)), heads, group, dim, draw(st.sampled_from([dim, 6]))


@settings(deadline=None, max_examples=60)
@given(shapes(), st.floats(0.01, 2))
def test_it_is_attention_to_both_parts_together(shape, scale):
    lengths, queries, shared, heads, group, dim, dim_v = shape
    batch, longest, most = len(lengths), max(lengths), max(queries)
    query = noise(batch, heads * group, most, dim)
    system = noise(1, heads, shared, dim, seed=1), noise(1, heads, shared, dim_v, seed=2)
    context = noise(batch, heads, longest, dim, seed=3), noise(batch, heads, longest, dim_v, seed=4)
    out, lse = relay_attention(query, system, context, scale=scale, lengths=lengths, queries=queries)
    for i, (length, count) in enumerate(zip(lengths, queries, strict=True)):
        both = [torch.cat([a[0], b[i, :, :length]], 1) for a, b in zip(system, context, strict=True)]
        seen = torch.cat([torch.ones(count, shared, dtype=torch.bool), seen_by(length, count)], 1)
        expected = full(query[i, :, :count], *both, scale, seen)
        torch.testing.assert_close(out[i, :, :count].double(), expected[0], **CLOSE)
        torch.testing.assert_close(lse[i, :, :count].double(), expected[1], **CLOSE)


@fused
@settings(deadline=None, max_examples=60)
@given(shapes(), st.booleans())
def test_both_ways_to_compute_give_the_same(shape, causal):
    lengths, queries, _, heads, group, dim, _ = shape
    length, total = (max(queries), max(lengths)) if not causal else (min(max(queries), max(lengths)), max(lengths))
    query, key, value = (noise(len(lengths), n, t, dim, seed=t) for n, t in
                         ((heads * group, length), (heads, total), (heads, total)))  # fmt: skip
    mask = None if causal else context_mask(lengths, queries)
    assert relay.fuses(query, key, value)
    found = attend(query, key, value, scale=0.3, mask=mask, causal=causal)
    masked = relay._causal(query, total) if causal else mask
    expected = relay._plain(query, key, value, 0.3, masked)
    torch.testing.assert_close(found.out, expected.out, **CLOSE)
    torch.testing.assert_close(found.lse, expected.lse, **CLOSE)


@pytest.mark.parametrize("fuses", [pytest.param(True, marks=fused), False])
def test_queries_that_see_nothing_count_for_nothing(fuses, monkeypatch):
    if not fuses:
        monkeypatch.setattr(relay, "fuses", lambda *_: False)
    query, key, value = noise(2, 4, 3, 8), noise(2, 2, 5, 8, seed=1), noise(2, 2, 5, 8, seed=2)
    mask = context_mask([5, 1], [3, 3])  # of the second, the first two queries stand before its only key
    assert mask.blind.tolist() == [[[False, False, False]], [[True, True, False]]]
    found = attend(query, key, value, mask=mask)
    assert torch.isneginf(found.lse[1, :, :2]).all()
    assert not found.out[1, :, :2].any()
    assert torch.isfinite(found.lse[0]).all()
    assert torch.isfinite(found.lse[1, :, 2]).all()
    elsewhere = attend(query, noise(2, 2, 6, 8, seed=3), noise(2, 2, 6, 8, seed=4))
    merged = merge(found, elsewhere)
    torch.testing.assert_close(merged.out[1, :, :2], elsewhere.out[1, :, :2])
    torch.testing.assert_close(merged.lse[1, :, :2], elsewhere.lse[1, :, :2])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.data())
def test_a_mask_lets_the_last_queries_see_what_is_not_behind_them(lengths, data):
    queries = [data.draw(st.integers(0, length)) for length in lengths]
    mask = context_mask(lengths, queries)
    assert mask.bias.shape == (len(lengths), 1, max(queries), max(lengths))
    assert set(mask.bias.unique().tolist()) <= {0.0, -torch.inf}
    for i, (length, count) in enumerate(zip(lengths, queries, strict=True)):
        found = mask.bias[i, 0, :count] == 0
        assert torch.equal(found[:, :length], seen_by(length, count).view(count, length))
        assert not found[:, length:].any()


# ------------------------------------------------------------------------------------------------------------ merging


def part(shift=0.0, seed=0, empty=()):
    """A part for five queries; those named found nothing."""
    lse, out = noise(1, 1, 5, seed=seed) * 3 + shift, noise(1, 1, 5, 4, seed=seed + 50)
    for query in empty:
        lse[0, 0, query], out[0, 0, query] = -torch.inf, 0
    return Attended(out, lse)


def test_the_order_of_merging_does_not_matter():
    a, b, c = part(seed=1, empty=[0, 3]), part(seed=2, empty=[1, 3]), part(seed=3, empty=[2])
    left, right, turned = merge(merge(a, c), b), merge(a, merge(c, b)), merge(merge(b, c), a)
    for other in (right, turned):
        torch.testing.assert_close(left.out, other.out, **CLOSE)
        torch.testing.assert_close(left.lse, other.lse, **CLOSE)
    weights = torch.stack([one.lse for one in (a, b, c)]).softmax(0)[..., None]
    torch.testing.assert_close(left.out, (weights * torch.stack([one.out for one in (a, b, c)])).sum(0), **CLOSE)


@pytest.mark.parametrize("shift", [500.0, -500.0, 80_000.0])
def test_log_sum_exps_far_beyond_exponentials_merge(shift):
    a, b = part(seed=1), part(seed=2)
    far = merge(*(Attended(one.out, one.lse + shift) for one in (a, b)))
    near = merge(a, b)
    torch.testing.assert_close(far.out, near.out, atol=1e-2, rtol=0)  # float32 keeps few decimals there
    assert torch.isfinite(far.lse).all()


def test_a_part_without_keys_leaves_the_other_as_it_is():
    some, none = part(seed=1), part(empty=range(5))
    for found in (merge(some, none), merge(none, some)):
        assert torch.equal(found.out, some.out)
        assert torch.equal(found.lse, some.lse)
    assert torch.equal(blend(some, none), some.out)


def test_nothing_cannot_be_merged_with_nothing():
    with pytest.raises(ValueError, match="saw no key in either part"):
        merge(part(seed=1, empty=[2]), part(seed=2, empty=[2]))
    empty = noise(1, 1, 0, 8)
    with pytest.raises(ValueError, match="saw no key"):
        relay_attention(noise(1, 2, 1, 8), (empty, empty), (empty, empty))


# -------------------------------------------------------------------------------------------------------- types, shapes


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_halves_are_rounded_once(dtype, bits):
    query = noise(3, 4, 1, 16, dtype=dtype)
    system = noise(1, 2, 60, 16, seed=1, dtype=dtype), noise(1, 2, 60, 16, seed=2, dtype=dtype)
    context = noise(3, 2, 9, 16, seed=3, dtype=dtype), noise(3, 2, 9, 16, seed=4, dtype=dtype)
    out, lse = relay_attention(query, system, context)
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    for i in range(3):
        both = [torch.cat([a[0], b[i]], 1) for a, b in zip(system, context, strict=True)]
        expected = full(query[i], *both, 0.25)[0]
        # half of the last bit of the binade that a value lies in, and a little for sums in float32
        half = torch.exp2(torch.floor(torch.log2(expected.abs())) - bits)
        assert ((out[i].double() - expected).abs() <= half + 1e-6).all()


def test_float64_stays_wide():
    query, key, value = (noise(1, 2, n, 8, seed=n, dtype=torch.float64) for n in (1, 7, 7))
    found = attend(query, key, value)
    assert found.out.dtype == found.lse.dtype == torch.float64
    torch.testing.assert_close(found.out[0], full(query[0], key[0], value[0], 8**-0.5)[0], atol=1e-12, rtol=0)


def test_keys_of_the_beginning_have_one_owner():
    with pytest.raises(ValueError, match=r"must be \(1, H_kv, s, d\), got \(2, 2, 5, 8\)"):
        system_attention(noise(2, 2, 1, 8), noise(2, 2, 5, 8), noise(2, 2, 5, 8))


def test_rows_of_all_requests_in_one_are_the_same_as_requests():
    query, key, value = noise(5, 6, 1, 8), noise(1, 2, 9, 8, seed=1), noise(1, 2, 9, 8, seed=2)
    apart, together = system_attention(query, key, value), system_attention(query.transpose(0, 2), key, value)
    torch.testing.assert_close(together.out.transpose(0, 2), apart.out)
    torch.testing.assert_close(together.lse.transpose(0, 2), apart.lse)


# --------------------------------------------------------------------------------------------------- a private operator


@pytest.fixture
def _unchecked():
    fused_works.cache_clear()
    yield
    fused_works.cache_clear()


def lying(*args, **more):
    out, lse = relay.torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **more)
    return out, lse / 0.6931  # base 2


def renamed(query, key, value, *, bias):
    raise AssertionError


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("operator", [None, pytest.param(lying, marks=fused), renamed])
def test_an_operator_that_is_gone_or_changed_is_not_used(operator, monkeypatch):
    monkeypatch.setattr(relay, "_FUSED", operator)
    query, key, value = noise(2, 2, 3, 8), noise(2, 2, 5, 8, seed=1), noise(2, 2, 5, 8, seed=2)
    assert not relay.fuses(query, key, value)
    found = attend(query, key, value, scale=0.4)
    for i in range(2):
        torch.testing.assert_close(found.lse[i].double(), full(query[i], key[i], value[i], 0.4)[1], **CLOSE)
