"""Reward of a judge: a model behind an OpenAI-compatible server gives each response 0 to 10 points."""

import asyncio
import math
import os
import re

from openai import AsyncOpenAI, OpenAIError

URL = "http://127.0.0.1:8001/v1"
MODEL = "judge"
AT_ONCE = 8
"""Requests that one reward process has under way."""
TIMEOUT_S = 10.0
"""Time limit of one request. With its tries it must fit into `data.reward_timeout_s`, which is 60."""
RETRIES = 2
"""After a time-out, a lost connection, or a status that says to try again; the client waits longer each time."""

QUESTION = "Question: {prompt}\nResponse: {response}\nHow good is the response? Reply with a number from 0 to 10 alone."

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


async def _points(prompt: str, response: str) -> float:
    """Ask the judge for the points of one response; ValueError if its reply has no number from 0 to 10."""
    content = QUESTION.format(prompt=prompt, response=response)
    async with free:
        reply = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}], temperature=0.0, max_tokens=8
        )
    text = reply.choices[0].message.content or ""
    number = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", text)
    if number is None or float(number[1]) > 10:
        raise ValueError(f"the judge replied {text[:80]!r}")
    return float(number[1])
