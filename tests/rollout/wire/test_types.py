"""Versions are never reused, and every token knows its own."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from wire_records import responses

from isentrope.rollout.wire.types import Response, batch_of, incarnation_of, version_of

incarnations = st.integers(1, 1 << 40)
batches = st.integers(0, (1 << 20) - 1)


@given(incarnations, batches)
def test_a_version_names_incarnation_and_batch(incarnation: int, batch: int) -> None:
    version = version_of(incarnation, batch)
    assert (incarnation_of(version), batch_of(version)) == (incarnation, batch)


@given(st.lists(st.tuples(incarnations, batches), min_size=1))
def test_an_array_of_versions_is_read_as_its_members_are(pairs: list[tuple[int, int]]) -> None:
    versions = np.array([version_of(*pair) for pair in pairs], dtype=np.int64)
    assert list(zip(incarnation_of(versions).tolist(), batch_of(versions).tolist(), strict=True)) == pairs


@given(incarnations, batches, batches)
def test_versions_rise_with_the_incarnation_whatever_the_batch(incarnation: int, batch: int, other: int) -> None:
    assert version_of(incarnation, batch) < version_of(incarnation + 1, other)


@given(responses())
def test_every_token_has_the_version_of_the_last_span_before_it(response: Response) -> None:
    versions = response.versions()
    assert versions.shape == response.tokens.shape
    for token, version in enumerate(versions):
        span = max(k for k, start in enumerate(response.span_start) if start <= token)
        assert version == response.span_version[span]
