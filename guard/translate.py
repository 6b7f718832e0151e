"""From OpenAI's request to what the engine is asked: defaults filled in, values made harmless."""

from __future__ import annotations

from typing import Any

from guard.ask import Ask
from guard.errors import bad_request
from guard.schema import MAX_SEQUENCES, ChatRequest, CompletionRequest, Request
from guard.tokenizer import Tokenizer, TokenizerFacts, too_long

GREEDY_BELOW = 1e-3  # dividing logits by less overflows them
COMPLETION_TOKENS = 16  # OpenAI's default for completions


def sampling(request: Request, facts: TokenizerFacts) -> dict[str, Any]:
    """The sampling part of an Ask.

    Temperature and top_p are rounded: the engine compiles its samplers anew for each value it has
    not seen, and keeps every one of them.
    """
    temperature = round(request.temperature, 2)
    if request.temperature < GREEDY_BELOW or request.top_p < GREEDY_BELOW:
        temperature = 0.0
    elif temperature == 0.0:
        temperature = 0.01
    if request.top_k >= facts.vocabulary:
        raise bad_request(
            f"`top_k` must be below the vocabulary's {facts.vocabulary}", param="top_k"
        )
    return {
        "temperature": temperature,
        "top_p": round(request.top_p, 3),
        "top_k": request.top_k,
        "min_p": round(request.min_p, 3),
        "repetition_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": _bias(request.logit_bias or {}, facts.vocabulary),
    }


def _bias(bias: dict[str, float], vocabulary: int) -> dict[int, float]:
    wrong = [key for key in bias if not (key.isascii() and key.isdigit() and len(key) <= 9)]  # noqa: PLR2004
    wrong = wrong or [key for key in bias if int(key) >= vocabulary]
    if wrong:
        raise bad_request(
            f"`logit_bias`: `{wrong[0][:40]}` is no token of this model (0 to {vocabulary - 1})",
            param="logit_bias",
        )
    return {int(key): value for key, value in bias.items()}


def messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Plain messages for the template: text joined, `developer` as `system`, nothing absent."""
    plain = []
    for message in request.messages:
        said = message.model_dump(exclude_none=True)
        if said["role"] == "developer":
            said["role"] = "system"
        if isinstance(content := said.get("content"), list):
            said["content"] = "".join(part.get("text", part.get("refusal", "")) for part in content)
        if (refusal := said.pop("refusal", None)) and not said.get("content"):
            said["content"] = refusal
        if (reasoning := said.pop("reasoning", None)) and "reasoning_content" not in said:
            said["reasoning_content"] = reasoning
        said.setdefault("content", "")
        plain.append(said)
    return plain


def template_arguments(request: ChatRequest, facts: TokenizerFacts) -> dict[str, Any]:
    given = request.chat_template_kwargs
    arguments = {} if given is None else given.model_dump(exclude_none=True)
    if request.reasoning_effort is not None:
        arguments.setdefault("reasoning_effort", request.reasoning_effort)
    for name in arguments:
        if name not in facts.template_arguments:
            raise bad_request(f"this model's chat template takes no `{name}`", param=name)
    return arguments


async def chat(
    request: ChatRequest, facts: TokenizerFacts, tokenizer: Tokenizer, context_tokens: int
) -> tuple[Ask, int]:
    """The ask, and how many tokens its prompt has.  Raises Refusal."""
    if not facts.chat:
        raise bad_request("this model has no chat template; use /v1/completions")
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()]
    if request.tool_choice == "none":
        tools = []
    if tools and not facts.tools:
        raise bad_request("this model does not call tools", param="tools")
    plain, arguments = messages(request), template_arguments(request, facts)
    count = await tokenizer.count_chat(plain, tools or None, arguments, most=context_tokens)
    limit = request.max_completion_tokens or request.max_tokens
    ask = Ask(
        messages=plain,
        tools=tools or None,
        template_arguments=arguments,
        max_tokens=_room(count, limit, context_tokens),
        logprobs=request.logprobs or bool(request.stops),
        top_logprobs=request.top_logprobs,
        **sampling(request, facts),
    )
    return ask, count


def refuse_long_lists(prompt: object, context_tokens: int) -> None:
    """A prompt of more token ids than the context has, before each of them is looked at."""
    lists = [prompt, *prompt[:MAX_SEQUENCES]] if isinstance(prompt, list) else []
    longest = max((len(ids) for ids in lists if isinstance(ids, list)), default=0)
    if longest > context_tokens:
        raise too_long(context_tokens, str(longest))


async def completions(
    request: CompletionRequest, facts: TokenizerFacts, tokenizer: Tokenizer, context_tokens: int
) -> list[tuple[Ask, int]]:
    """One ask for each prompt, with its count.  Raises Refusal."""
    asks = []
    for prompt in request.prompts:
        if isinstance(prompt, list):
            if max(prompt) >= facts.vocabulary:
                raise bad_request("`prompt`: not a token of this model", param="prompt")
            prompt = await tokenizer.text_of(prompt)  # noqa: PLW2901 - the same prompt, as text
        count = await tokenizer.count_text(prompt, most=context_tokens)
        limit = request.max_tokens or COMPLETION_TOKENS
        ask = Ask(
            prompt=prompt,
            max_tokens=_room(count, limit, context_tokens),
            logprobs=request.logprobs is not None or bool(request.stops),
            top_logprobs=request.logprobs or 0,
            **sampling(request, facts),
        )
        asks.append((ask, count))
    return asks


def _room(prompt_tokens: int, limit: int | None, context_tokens: int) -> int:
    """Tokens that may be generated; raises Refusal where the context cannot hold them."""
    if prompt_tokens == 0:
        raise bad_request("the prompt is empty")
    asked = limit or 1
    if prompt_tokens + asked > context_tokens:
        raise too_long(context_tokens, str(prompt_tokens), asked)
    return limit or context_tokens - prompt_tokens
