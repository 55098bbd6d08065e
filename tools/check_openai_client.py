#!/usr/bin/env python3
"""Checks a running HTTP server with OpenAI's own Python client, as programs would use it.

    pip install openai
    python3 tools/check_openai_client.py --base_url http://127.0.0.1:8000/v1 [--api_key KEY] [--chat]

Exits 0 when every check passes, 1 when one does not, 77 without the client.
"""
import argparse
import asyncio
import sys
import time
import traceback

try:
    import openai
except ImportError:
    openai = None

PROMPT = "To be, or not to be"


def check_models(client, model):
    assert model in [m.id for m in client.models.list().data]
    assert client.models.retrieve(model).id == model


def check_completion(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, seed=3)
    assert answer.object == "text_completion" and len(answer.choices) == 1
    assert answer.usage.completion_tokens <= 24 and answer.usage.prompt_tokens > 0
    assert answer.choices[0].finish_reason in ("stop", "length")
    again = client.completions.create(model=model, prompt=PROMPT, max_tokens=24, seed=3)
    assert again.choices[0].text == answer.choices[0].text, "a seed makes an answer again"


def check_stream(client, model):
    fields = {"model": model, "prompt": [PROMPT, "JULIET:"], "max_tokens": 24, "n": 2, "seed": 5}
    whole = client.completions.create(**fields)
    texts = [""] * 4
    usage = None
    for chunk in client.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices], (texts, whole)
    assert usage.total_tokens == whole.usage.total_tokens


def check_stop(client, model):
    text = client.completions.create(model=model, prompt=PROMPT, max_tokens=40, temperature=0).choices[0].text
    stop = text[10:12]
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=40, temperature=0, stop=[stop])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def check_logprobs(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0, logprobs=3, echo=True)
    choice = answer.choices[0]
    logprobs = choice.logprobs
    assert choice.text.startswith(PROMPT)
    assert len(logprobs.tokens) == answer.usage.total_tokens
    assert logprobs.token_logprobs[0] is None and all(p <= 0 for p in logprobs.token_logprobs[1:])
    for token, logprob, likeliest in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs))[-8:]:
        assert likeliest[token] == logprob == max(likeliest.values())
    assert "".join(logprobs.tokens).endswith(choice.text[len(PROMPT):])
    scored = client.completions.create(model=model, prompt=PROMPT, max_tokens=0, logprobs=0, echo=True)
    assert scored.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[: scored.usage.prompt_tokens]


def check_errors(client, model):
    for fields, error in [
        ({"model": "nobody"}, openai.NotFoundError),
        ({"model": model, "temperature": 9}, openai.BadRequestError),
        ({"model": model, "suffix": "x"}, openai.BadRequestError),
        ({"model": model, "max_tokens": 0}, openai.BadRequestError),
    ]:
        try:
            client.completions.create(prompt=PROMPT, **fields)
        except error as caught:
            assert caught.body["message"] and caught.body["type"], caught.body
        else:
            raise AssertionError(f"{fields} was taken")


def check_hang_up(client, model):
    stream = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    client.completions.create(model=model, prompt=PROMPT, max_tokens=1)


def check_many(client, model):
    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as many:
            return await asyncio.gather(*[
                many.completions.create(model=model, prompt=f"{i}: ", max_tokens=8, seed=i) for i in range(64)
            ])

    assert len(asyncio.run(all_at_once())) == 64


def check_chat(client, model):
    messages = [
        {"role": "system", "content": "You are Romeo."},
        {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
    ]
    fields = {"model": model, "messages": messages, "max_tokens": 16, "seed": 3, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**fields)
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert len(choice.logprobs.content) == whole.usage.completion_tokens
    assert all(len(token.top_logprobs) >= 2 for token in choice.logprobs.content)
    text, roles = "", []
    for chunk in client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            roles.append(choice.delta.role)
            text += choice.delta.content or ""
    assert text == whole.choices[0].message.content
    assert roles[0] == "assistant" and not any(roles[1:])


def check_no_chat(client, model):
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    except openai.BadRequestError as caught:
        assert "/v1/completions" in caught.body["message"]
    else:
        raise AssertionError("there is a chat template; say --chat")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api_key", default="none")
    parser.add_argument("--chat", action="store_true", help="the model has a chat template")
    arguments = parser.parse_args()
    if openai is None:
        print("OpenAI's client is not there: pip install openai")
        return 77
    client = openai.OpenAI(base_url=arguments.base_url, api_key=arguments.api_key, max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    checks = [check_models, check_completion, check_stream, check_stop, check_logprobs, check_errors, check_hang_up,
              check_many, check_chat if arguments.chat else check_no_chat]
    failed = 0
    for check in checks:
        start = time.monotonic()
        try:
            check(client, model)
            print(f"ok      {check.__name__}  {time.monotonic() - start:.2f} s")
        except Exception:  # whatever it is, the next check is tried
            failed += 1
            print(f"FAILED  {check.__name__}\n{traceback.format_exc()}")
    print(f"openai {openai.__version__}: {len(checks) - failed} of {len(checks)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
