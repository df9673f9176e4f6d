"""Relay attention is plain attention over the beginning and the context together, for every published case."""

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from geovl.segmenters.text_as_mask import relay
from geovl.segmenters.text_as_mask.relay import (
    Attended,
    attend,
    context_mask,
    merge,
    relay_attention,
    system_attention,
)
from tests.golden import folder

FILES = sorted(folder("relay").glob("*.json"))
CASES = [(path, case) for path in FILES for case in json.loads(path.read_text())["cases"]]
WAYS = ["fused", "plain"]


@pytest.fixture(params=WAYS)
def _way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(relay, "fuses", lambda *_: False)
    elif not relay.fused_works():
        pytest.skip("this torch has no fused operator")


def rotated(x, positions, theta):
    """Half-split rotary positions: x (n, heads, d)."""
    half = x.shape[-1] // 2
    frequencies = theta ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = positions[:, None, None].double() * frequencies
    first, second = x.double().split(half, -1)
    turned = [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()]
    return torch.cat(turned, -1).to(x.dtype)


def padded(rows, offsets):
    """(n, heads, d) of all requests to (b, heads, longest, d), padded on the right."""
    parts = [rows[a:b].transpose(0, 1) for a, b in pairwise(offsets)]
    longest = max(part.shape[1] for part in parts)
    return torch.stack([torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1]), value=7.0) for part in parts])


class Case:
    """One case: its tensors, with the shapes that relay attention takes."""

    def __init__(self, path, about):
        arrays = load_file(path.with_suffix(".safetensors"))
        self.about, self.name = about, about["name"]
        start = f"{self.name}."
        self.arrays = {name.removeprefix(start): t for name, t in arrays.items() if name.startswith(start)}
        self.lengths, self.queries, self.scale = about["ctx_len"], about["q_len"], about["scale"]
        q, k_sys, k_ctx = (self.arrays[name] for name in ("q", "k_sys", "k_ctx"))
        if about["rope"]:
            q, k_sys, k_ctx = self.turned(q, k_sys, k_ctx, about["sys_len"])
        self.query, self.system, self.context = self.shaped(q, k_sys, k_ctx)
        tolerance = about["suggested_tolerance"]
        self.close = {"atol": tolerance["atol"], "rtol": tolerance["rtol"]}

    def turned(self, q, k_sys, k_ctx, start):
        """Queries and keys at their positions, the context's first token at ``start``."""
        own = torch.cat([torch.arange(n) for n in self.lengths])
        asked = torch.cat([torch.arange(n - m, n) for n, m in zip(self.lengths, self.queries, strict=True)])
        theta = self.about["rope_theta"]
        system = rotated(k_sys, torch.arange(self.about["sys_len"]), theta)
        return rotated(q, asked + start, theta), system, rotated(k_ctx, own + start, theta)

    def shaped(self, q, k_sys, k_ctx):
        system = tuple(t.transpose(0, 1)[None] for t in (k_sys, self.arrays["v_sys"]))
        context = tuple(padded(t, self.about["cu_ctx"]) for t in (k_ctx, self.arrays["v_ctx"]))
        return padded(q, self.about["cu_q"]), system, context

    def relay(self, query=None, system=None, context=None):
        return relay_attention(
            self.query if query is None else query, system or self.system, context or self.context,
            scale=self.scale, lengths=self.lengths, queries=self.queries,
        )  # fmt: skip

    def own(self):
        mask = context_mask(self.lengths, self.queries)
        return attend(self.query, *self.context, scale=self.scale, mask=mask)

    def flat(self, found):
        """(b, heads, longest, ...) to (n, heads, ...), without padding."""
        return torch.cat([row[:, :count].transpose(0, 1) for row, count in zip(found, self.queries, strict=True)])


@pytest.fixture(params=CASES, ids=lambda case: case[1]["name"])
def case(request):
    return Case(*request.param)


@pytest.mark.usefixtures("_way")
def test_outputs_and_log_sum_exps_are_those_of_full_attention(case):
    out, lse = case.relay()
    torch.testing.assert_close(case.flat(out).double(), case.arrays["out"], **case.close)
    torch.testing.assert_close(case.flat(lse).double(), case.arrays["lse"].double(), **case.close)
    assert out.dtype == case.query.dtype
    assert lse.dtype == torch.float32


@pytest.mark.usefixtures("_way")
def test_both_parts_have_the_log_sum_exps_told(case):
    close = {**case.close, "check_dtype": False}
    found = system_attention(case.query, *case.system, scale=case.scale)
    torch.testing.assert_close(case.flat(found.lse), case.arrays["lse_sys"], **close)
    torch.testing.assert_close(case.flat(case.own().lse), case.arrays["lse_ctx"], **close)


@pytest.mark.usefixtures("_way")
def test_requests_in_another_order_give_outputs_in_that_order(case):
    order = torch.randperm(len(case.lengths), generator=torch.Generator().manual_seed(1))
    mask = [[part[i] for i in order] for part in (case.lengths, case.queries)]
    out, lse = case.relay()
    context = tuple(part[order] for part in case.context)
    found = relay_attention(
        case.query[order], case.system, context, scale=case.scale, lengths=mask[0], queries=mask[1]
    )  # fmt: skip
    for a, b in zip(found, (out[order], lse[order]), strict=True):
        torch.testing.assert_close(a, b, **case.close)


@pytest.mark.usefixtures("_way")
def test_the_beginning_may_be_cut_anywhere_and_merged_twice(case):
    whole = merge(system_attention(case.query, *case.system, scale=case.scale), case.own())
    size = case.about["sys_len"]
    for cut in sorted({0, 1, size // 3, size - 1, size} & set(range(size + 1))):
        pieces = [
            system_attention(case.query, *(part[:, :, piece] for part in case.system), scale=case.scale)
            for piece in (slice(0, cut), slice(cut, None))
        ]
        if size:
            left = merge(merge(*pieces), case.own())
            torch.testing.assert_close(left.out, whole.out, **case.close)
            torch.testing.assert_close(left.lse, whole.lse, **case.close)
        right = merge(pieces[0], merge(case.own(), pieces[1]))
        torch.testing.assert_close(right.out, whole.out, **case.close)
        torch.testing.assert_close(right.lse, whole.lse, **case.close)


def test_without_a_beginning_it_is_attention_to_the_context():
    (found,) = (Case(path, about) for path, about in CASES if about["name"] == "no_system_prompt")
    out, lse = found.relay()
    own = found.own()
    assert torch.equal(out, own.out)
    assert torch.equal(lse, own.lse)


def test_the_beginning_is_read_once_by_all_requests_together(case, monkeypatch):
    calls = []

    def counting(query, key, value, **more):
        calls.append((tuple(query.shape), tuple(key.shape)))
        return attend(query, key, value, **more)

    monkeypatch.setattr(relay, "attend", counting)
    case.relay()
    about = case.about
    rows = about["heads_q"] // about["heads_kv"] * about["batch"] * max(case.queries)
    shared = ((1, about["heads_kv"], rows, about["dim"]), (1, about["heads_kv"], about["sys_len"], about["dim"]))
    assert [call for call in calls if call[1] == shared[1]].count(shared) == 1
    assert len(calls) == 2


ROTARY = [(path, about) for path, about in CASES if about["rope"]]


@pytest.mark.parametrize(("path", "about"), ROTARY, ids=[about["name"] for _, about in ROTARY])
def test_contexts_that_restart_at_position_0_do_not_match(path, about):
    case = Case(path, about)
    wrong = case.arrays["out_if_positions_restart"].double()
    out, _ = case.relay()
    assert not torch.allclose(case.flat(out).double(), wrong, **case.close)
    q, _, k_ctx = case.turned(*(case.arrays[name] for name in ("q", "k_sys", "k_ctx")), 0)
    query, _, context = case.shaped(q, case.arrays["k_sys"], k_ctx)
    restarted, _ = case.relay(query, case.system, context)
    torch.testing.assert_close(case.flat(restarted).double(), wrong, **case.close)


def test_there_are_cases_with_and_without_all_that_matters():
    about = [told for _, told in CASES]
    assert len(about) >= 19
    assert {told["rope"] for told in about} == {True, False}
    assert {told["dtype"] for told in about} >= {"float32", "float16", "bfloat16"}
    assert isinstance(Case(*CASES[0]).own(), Attended)
