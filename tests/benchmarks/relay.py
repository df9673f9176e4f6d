"""Compare decoding with relay attention to decoding without: CPU seconds of one thread, and whether tokens are the same.

    OMP_NUM_THREADS=1 python tests/benchmarks/relay.py --quick
    OMP_NUM_THREADS=1 python tests/benchmarks/relay.py --generate

A Llama decoder of random weights: 12 layers, width 768, 12 query heads of 64, 32000 tokens, 12 or 2 heads of keys,
float32. Requests share ``--shared`` tokens and have ``--context`` of their own.

Steps: one token for each request. "Plain" is the model's own attention of transformers with caches that are allocated
before, so that nothing is copied; "expanded" is our loop without relay, where each request has a copy of what is
shared. Their steps take turns; a figure is the median of ``--steps`` of them, and ratios are plain over relay. Keys and
values are noise: what they are does not change what a step costs. "Floor" is a step with hardly any keys: the weights.

``--generate``: whole answers of ``--new`` tokens to 8 prompts, by ``generate`` here, prompts included, and by
transformers' ``model.generate(ids, do_sample=False, max_new_tokens=...)``, whose cache grows by copying.

Prints one line of JSON for each comparison.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache, DynamicLayer

from geovl.segmenters.text_as_mask.answers import Answer
from geovl.segmenters.text_as_mask.cache import Prefix, Ragged
from geovl.segmenters.text_as_mask.generate import Batch, Request, Settings, generate
from geovl.segmenters.text_as_mask.network import Network
from geovl.segmenters.text_as_mask.sharing import verified

LAYERS, HEADS, DIM, WORDS = 12, 12, 64, 32000
TARGETS = {32: 2.2, 8: 1.6, 1: 0.95}
ROOM = 64  # tokens behind the context


def decoder(kv_heads: int) -> Any:
    """A language model of random weights that never ends an answer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=HEADS * DIM, intermediate_size=2048, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=kv_heads, max_position_embeddings=8192,
        tie_word_embeddings=False, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


class Fixed(DynamicLayer):
    """A layer of a cache that was allocated before, and is full up to some token."""

    def __init__(self, shape: tuple[int, int, int, int], used: int) -> None:
        super().__init__()
        self.stores = [torch.randn(shape) * 0.5 for _ in range(2)]
        self.used, self.is_initialized = used, True
        self.keys, self.values = (store[:, :, :used] for store in self.stores)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write behind what is there."""
        for store, new in zip(self.stores, (key_states, value_states), strict=True):
            store[:, :, self.used : self.used + new.shape[2]] = new
        self.used += key_states.shape[2]
        self.keys, self.values = (store[:, :, : self.used] for store in self.stores)
        return self.keys, self.values


def plain_step(network: Network, requests: int, tokens: int, kv_heads: int) -> Callable[[], None]:
    """A step by transformers' own attention."""
    cache = DynamicCache()
    cache.layers = [Fixed((requests, kv_heads, tokens + ROOM, DIM), tokens) for _ in range(LAYERS)]
    ids = torch.randint(WORDS, (requests, 1))

    def step() -> None:
        nonlocal ids
        positions = torch.full((requests, 1), cache.get_seq_length())
        told = {"input_ids": ids, "position_ids": positions, network.cache_name: cache}
        ids = network.model(**told, use_cache=True).logits.argmax(-1)

    return step


def our_step(network: Network, requests: int, shared: int, context: int, kv_heads: int, relay: bool) -> Callable:
    """A step of our loop."""
    noise = [tuple(torch.randn(1, kv_heads, shared, DIM) * 0.5 for _ in range(LAYERS)) for _ in range(2)]
    cache = Ragged(requests, context + ROOM, Prefix(tuple(range(shared)), {}, *noise), relay=relay)
    cache.plan([context] * requests, range(requests))
    for layer in range(LAYERS):
        cache.update(*(torch.randn(2, 1, kv_heads, requests * context, DIM) * 0.5).unbind(), layer)
    answers = [Answer(Request([1]), ROOM, frozenset()) for _ in range(requests)]
    for answer in answers:
        answer.feed = [1]
    batch = Batch(network, cache, answers, [torch.arange(shared + context)[None]] * requests)
    return batch.step


def timed(steps: dict[str, Callable[[], None]], times: int) -> dict[str, float]:
    """CPU milliseconds of each kind of step, the median of some that take turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    with torch.inference_mode():
        for step in steps.values():
            step()
        for _ in range(times):
            for name, step in steps.items():
                start = process_time()
                step()
                found[name].append((process_time() - start) * 1e3)
    return {name: median(each) for name, each in found.items()}


def compare_steps(network: Network, requests: int, options: argparse.Namespace, kv_heads: int) -> dict[str, Any]:
    """One line: steps of so many requests."""
    shared, context = options.shared, options.context
    steps = {
        "plain": plain_step(network, requests, shared + context, kv_heads),
        "relay": our_step(network, requests, shared, context, kv_heads, relay=True),
        "floor": plain_step(network, requests, 1, kv_heads),
    }
    if options.expanded:
        steps["expanded"] = our_step(network, requests, shared, context, kv_heads, relay=False)
    found = timed(steps, options.steps)
    line = {"kv_heads": kv_heads, "requests": requests, "shared": shared, "context": context}
    line |= {f"{name}_ms": round(each, 1) for name, each in found.items()}
    line["plain_over_relay"] = round(found["plain"] / found["relay"], 2)
    if options.expanded:
        line["plain_over_expanded"] = round(found["plain"] / found["expanded"], 2)
    if kv_heads == HEADS and (shared, context) == (2048, 256):
        line["target"] = TARGETS[requests]
    return line


def compare_generate(network: Network, options: argparse.Namespace, kv_heads: int) -> dict[str, Any]:
    """One line: whole answers to 8 prompts."""
    common = torch.randint(WORDS, (options.shared,)).tolist()
    prompts = [common + torch.randint(WORDS, (options.context,)).tolist() for _ in range(8)]
    verified(network)  # once for a model, not once for a batch
    start = process_time()
    ours = generate(network.model, [Request(ids) for ids in prompts], Settings(options.new))
    relay = process_time() - start
    ids = torch.tensor(prompts)
    start = process_time()
    found = network.model.generate(ids, do_sample=False, max_new_tokens=options.new)
    plain = process_time() - start
    same = [tuple(row[ids.shape[1] :].tolist()) for row in found] == [answer.tokens for answer in ours]
    line = {"kv_heads": kv_heads, "requests": 8, "shared": options.shared, "context": options.context}
    line |= {"new_tokens": options.new, "model_generate_s": round(plain, 1), "ours_s": round(relay, 1)}
    line |= {"ratio": round(plain / relay, 2), "same_tokens": same}
    told = (kv_heads, options.shared, options.context, options.new)
    return line | ({"target": 5} if told == (HEADS, 2048, 256, 128) else {})


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--kv-heads", type=int, nargs="+", default=[12, 2])
    parser.add_argument("--shared", type=int, default=2048)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--generate", action="store_true", help="whole answers too: minutes")
    parser.add_argument("--expanded", action="store_true", help="our loop without relay too: as much memory again")
    parser.add_argument("--quick", action="store_true", help="fewer steps and requests")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.kv_heads, options.steps = [1, 8], [12], 6
    torch.set_num_threads(1)
    for kv_heads in options.kv_heads:
        network = Network(decoder(kv_heads))
        for requests in options.requests:
            print(json.dumps(compare_steps(network, requests, options, kv_heads)), flush=True)
        if options.generate:
            print(json.dumps(compare_generate(network, options, kv_heads)), flush=True)


if __name__ == "__main__":
    main()
