"""A real server answers as the same model does here: ``transformers serve`` with a checkpoint of random weights."""

import json
import os
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
transformers = pytest.importorskip("transformers", reason="needs the extra [torch]")
for needed in ("fastapi", "uvicorn", "openai", "accelerate"):
    pytest.importorskip(needed, reason="needs transformers[serving]")
pytest.importorskip("transformers.cli.serve", reason="needs transformers 5")

from geovl.errors import ModelError  # noqa: E402 - after it is known that they are there
from geovl.segmenters.text_as_mask.endpoint import Endpoint  # noqa: E402
from geovl.segmenters.text_as_mask.endpoint_answers import AnswerFolder, Question  # noqa: E402
from geovl.segmenters.text_as_mask.endpoint_grammar import answer_grammar  # noqa: E402

SIDE = 32
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer():
    """One token a byte, and a few special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<s>", "</s>", "<image>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = Tokenizer(models.BPE({token: index for index, token in enumerate([*special, *letters])}, []))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, additional_special_tokens=["<image>"], extra_special_tokens={"image_token": "<image>"},
        **dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=False)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A LLaVA of two thin layers, as transformers saves it."""
    folder = tmp_path_factory.mktemp("tiny-llava")
    words = tokenizer()
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    text = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=len(words), max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=words.convert_tokens_to_ids("<image>")
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():  # apart enough that pictures and words differ
            tensor.add_(torch.randn_like(tensor) * 0.3)
    model.generation_config.eos_token_id = list(range(2, 40))  # so that some answers end by themselves
    model.generation_config.repetition_penalty = 1.7  # which no mask could be written with: runs of labels repeat
    model.save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = transformers.LlavaProcessor(
        pictures, words, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(checkpoint), "--host", "127.0.0.1"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(log.parent), "OMP_NUM_THREADS": "1"}
    with log.open("w") as told:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu"], stdout=told, stderr=told, env=environment
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                pytest.fail(f"transformers serve ended: {log.read_text()[-2000:]}")
            try:
                with urlopen(f"{url}/health", timeout=5):  # noqa: S310 - loopback
                    break
            except (URLError, OSError):
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def tile(number):
    return np.random.default_rng(number).integers(0, 256, (3, SIDE, SIDE), np.uint8)


@pytest.fixture(scope="module")
def here(checkpoint):
    """The same model in this process: question to text, and whether it ended by itself."""
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()

    def answer(question, most):
        from PIL import Image

        parts = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": Image.fromarray(part.transpose(1, 2, 0))}
            for part in question.parts
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            out = model.generate(**inputs, do_sample=False, max_new_tokens=most, repetition_penalty=1.0)
        new = out[0, inputs["input_ids"].shape[1] :]
        return processor.decode(new, skip_special_tokens=True), len(new) < most

    return answer


def test_a_server_answers_as_the_model_does_here(server, checkpoint, here):
    questions = [
        Question((tile(number), words) if number % 2 else (words, tile(number)))
        for number, words in enumerate(("where are ships?", "roads", "where are ships?", "water", "roads", "ships"))
    ]
    finished = set()
    for most in (24, 3):
        with Endpoint(server, str(checkpoint), max_tokens=most, concurrency=4) as model:
            answers = model.ask(questions)
            assert model.server().models == (str(checkpoint),)
            assert model.engine == "other"
        expected = [here(question, most) for question in questions]
        assert [answer.text for answer in answers] == [text for text, _ in expected]
        assert len({text for text, _ in expected}) > 3, "pictures and words must matter, or nothing is shown"
        for answer, (text, ended) in zip(answers, expected, strict=True):
            assert answer.finish == ("stop" if ended else "length")
            kind = answer.fault and answer.fault.kind
            assert kind == ((None if text.strip() else "empty") if ended else "cut")
            finished.add(answer.finish)
    assert finished == {"stop", "length"}


def test_a_server_that_tells_no_probabilities_and_takes_no_grammar_still_answers(server, checkpoint, tmp_path):
    question = Question((tile(0), "ships"), answers=answer_grammar(("others", "ship"), (4, 4)))
    with Endpoint(server, str(checkpoint), max_tokens=4, store=AnswerFolder(tmp_path)) as model:
        (answer,) = model.ask([question])
        assert answer.tokens is None
        assert answer.text
    with Endpoint("http://127.0.0.1:9", str(checkpoint), max_tokens=4, store=AnswerFolder(tmp_path)) as model:
        assert model.ask([question]) == [answer]


def test_what_a_server_does_not_know_is_told_in_its_words(server, checkpoint):
    question = Question((tile(0), "ships"), answers=answer_grammar(("others", "ship"), (4, 4)))
    with (
        Endpoint(server, str(checkpoint), constraint="sglang") as model,
        pytest.raises(ModelError, match=r"Unexpected fields in the request: {'ebnf'}"),
    ):
        model.ask([question])
    with (
        Endpoint(server, "another/model") as model,
        pytest.raises(ModelError, match="serves no model 'another/model'; it serves ") as raised,
    ):
        model.ask([question])
    assert str(checkpoint) in raised.value.message


def test_the_checkpoint_is_one_that_others_could_load(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
