"""Any causal model of transformers writes descriptors when it is held to them, however little it knows."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
transformers = pytest.importorskip("transformers", reason="needs the extra [torch]")

from geovl.segmenters.text_as_mask.automaton import Automaton  # noqa: E402
from geovl.segmenters.text_as_mask.constrained import DescriptorLogitsProcessor  # noqa: E402
from geovl.segmenters.text_as_mask.grammar import decode  # noqa: E402

LABELS = ("others", "ship", "swimming pool")
TEXT = [
    "others *16| ship *3\n swimming pool *12| others *4\n</seg>",
    "Here is the mask of the ship:\n<seg>",
    "1234567890",
]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXT * 9, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, special_tokens=["<end>"])
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request, tokenizer):
    torch.manual_seed(0)
    size = len(tokenizer)
    if request.param == "gpt2":
        config = transformers.GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2, n_positions=512)
    else:
        config = transformers.LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=512,
        )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("sample", [False, True], ids=["greedy", "sampled"])
def test_every_answer_parses_exactly(model, tokenizer, sample):
    automaton = Automaton(tokenizer, LABELS, (4, 6), opening="Here is the mask of the ship:\n<seg>")
    prompts = tokenizer(["a ship?", "where is the pool"], return_tensors="pt", padding=True, padding_side="left")
    length = prompts["input_ids"].shape[1]
    torch.manual_seed(1)
    out = model.generate(
        **prompts, do_sample=sample, max_new_tokens=400,
        logits_processor=[DescriptorLogitsProcessor(automaton, length, [tokenizer.eos_token_id])],
    )  # fmt: skip
    for ids in out[:, length:].tolist():
        tokens = ids[: ids.index(tokenizer.eos_token_id)]
        text = tokenizer.decode(tokens)
        assert text.startswith("Here is the mask of the ship:\n<seg>")
        found = decode(text, (4, 6), LABELS, referring=False)
        assert found.exact, text
        assert np.array_equal(found.grid, automaton.grid(tokens))
        assert set(ids[len(tokens) :]) == {tokenizer.eos_token_id}


def test_what_the_model_would_rather_write_is_taken_among_what_is_allowed(tokenizer):
    automaton = Automaton(tokenizer, LABELS, (1, 2))
    processor = DescriptorLogitsProcessor(automaton, 0, [tokenizer.eos_token_id])
    state, ids = automaton.start(), []
    for token in automaton.tokens(np.array([[1, 2]])):
        scores = torch.randn(1, len(tokenizer))
        kept = processor(torch.tensor([ids], dtype=torch.long), scores)
        allowed = list(automaton.allowed(state))
        assert torch.equal(kept[0, allowed], scores[0, allowed])
        assert int(kept.isfinite().sum()) == len(allowed)
        ids.append(token)
        state = automaton.advance(state, token)
    done = processor(torch.tensor([ids]), torch.zeros(1, len(tokenizer)))
    assert done[0].isfinite().nonzero().flatten().tolist() == [tokenizer.eos_token_id]
