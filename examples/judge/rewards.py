"""Reward of a judge: a model behind an OpenAI-compatible server gives each response 0 to 10 points."""

import asyncio
import math
import os
import re

from openai import AsyncOpenAI, OpenAIError

from isentrope.rollout.rewards.steps import MAX_STEPS, paragraphs

URL = "http://127.0.0.1:8001/v1"
MODEL = "judge"
AT_ONCE = 8
"""Requests that one reward process has under way."""
TIMEOUT_S = 10.0
"""Time limit of one request. With its tries it must fit into `data.reward_timeout_s`, which is 60."""
RETRIES = 2
"""After a time-out, a lost connection, or a status that says to try again; the client waits longer each time."""

QUESTION = "Question: {prompt}\nResponse: {response}\nHow good is the response? Reply with a number from 0 to 10 alone."

VERDICTS = (
    ("Is the step right? Reply with yes or no alone.", "yes"),
    ("Is there a mistake in the step? Reply with yes or no alone.", "no"),
)
"""Two questions about a step, and the reply to each that speaks for it."""
STEP = "Question: {prompt}\nBefore the step: {before}\nStep: {step}\n"

client = AsyncOpenAI(
    base_url=URL, api_key=os.environ.get("JUDGE_API_KEY", "none"), timeout=TIMEOUT_S, max_retries=RETRIES
)
free = asyncio.Semaphore(AT_ONCE)


async def judged(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """Return a tenth of the points of each completion; NaN, which is not a reward, where the judge gave none.

    A response without a reward counts as failed, never as bad: the others of its group are trained. If the judge
    answers nothing at all, that is an error, and the whole group is tried again.
    """
    asked = [_points(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
    points = await asyncio.gather(*asked, return_exceptions=True)
    for error in points:
        if isinstance(error, BaseException) and not isinstance(error, (OpenAIError, ValueError)):
            raise error
    failed = [error for error in points if isinstance(error, BaseException)]
    if len(failed) == len(points):
        raise RuntimeError(f"the judge at {URL} gave no verdict: {failed[0]}") from failed[0]
    return [math.nan if isinstance(value, BaseException) else value / 10 for value in points]


async def stepwise(prompts: list[str], completions: list[str], **columns: object) -> list[dict[str, object]]:
    """Return the same as `judged`, with the paragraphs of each completion as steps, for a method that weighs them.

    A step is correct if two verdicts agree that it is: what a judge is unsure of, or does not answer, is not.
    """
    points = await judged(prompts, completions, **columns)
    steps = await asyncio.gather(*map(_steps, prompts, completions))
    return [{"reward": value, "steps": each} for value, each in zip(points, steps, strict=True)]


async def _steps(prompt: str, response: str) -> list[tuple[int, int, bool]]:
    """Return the steps of one response."""
    spans = paragraphs(response)[:MAX_STEPS]
    correct = await asyncio.gather(
        *(_is_correct(prompt, response[:start], response[start:end]) for start, end in spans)
    )
    return [(start, end, each) for (start, end), each in zip(spans, correct, strict=True)]


async def _is_correct(prompt: str, before: str, step: str) -> bool:
    """Return True if both verdicts speak for a step."""
    about = STEP.format(prompt=prompt, before=before, step=step)
    replies = await asyncio.gather(*(_reply(about + question) for question, _ in VERDICTS), return_exceptions=True)
    for error in replies:
        if isinstance(error, BaseException) and not isinstance(error, OpenAIError):
            raise error
    wanted = [reply for _, reply in VERDICTS]
    return [isinstance(reply, str) and reply.strip().lower().rstrip(".") for reply in replies] == wanted


async def _points(prompt: str, response: str) -> float:
    """Ask the judge for the points of one response; ValueError if its reply has no number from 0 to 10."""
    text = await _reply(QUESTION.format(prompt=prompt, response=response))
    number = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", text)
    if number is None or float(number[1]) > 10:
        raise ValueError(f"the judge replied {text[:80]!r}")
    return float(number[1])


async def _reply(content: str) -> str:
    """Return what the judge replies."""
    async with free:
        reply = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}], temperature=0.0, max_tokens=8
        )
    return reply.choices[0].message.content or ""
