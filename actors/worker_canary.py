"""Methods that are mixed into vLLM's workers, and run in its processes while the engine is paused.

vLLM's scheduler answers nothing while it is paused, and after it has been resumed the requests that it kept run with
weights that nobody has looked at. So the canary is computed past the scheduler, by the worker's own model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm import SamplingParams
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput

if TYPE_CHECKING:
    from isentrope.actors.weight_receiver import WeightReceiver

NAME = "isentrope-canary"
"""Request of the canary inside vLLM."""


class WorkerCanary:
    """Extension of a worker; no public name of vLLM's worker may be the same."""

    model_runner: Any
    execute_model: Any
    sample_tokens: Any
    weight_transfer_engine: "WeightReceiver"

    def isentrope_loaded(self) -> str:
        """Return the digest of the table of tensors that was loaded completely at last; empty: none was."""
        return self.weight_transfer_engine.loaded

    def isentrope_logp(self, tokens: list[int]) -> list[float] | None:
        """Return the log-probability of every token but the first at temperature 1; None on ranks that compute none.

        Only while nothing runs and caches are cleared: otherwise the blocks belong to other requests.
        """
        result = self._step([self._request(tokens)], set())
        self._step([], {NAME})  # forget the request
        computed = getattr(result, "prompt_logprobs_dict", None)
        return None if not computed else computed[NAME].logprobs[:, 0].tolist()

    def _request(self, tokens: list[int]) -> NewRequestData:
        blocks, free = [], 1  # block 0 is vLLM's null block
        for group in self.model_runner.kv_cache_config.kv_cache_groups:
            count = -(-(len(tokens) + 1) // group.kv_cache_spec.block_size)
            blocks.append(list(range(free, free + count)))
            free += count
        # At temperature 0 no generator is made, so the random numbers of other requests stay as they are.
        sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        return NewRequestData(
            req_id=NAME,
            prompt_token_ids=tokens,
            mm_features=[],
            sampling_params=sampling,
            pooling_params=None,
            block_ids=tuple(blocks),
            num_computed_tokens=0,
            lora_request=None,
            prefill_token_ids=tokens,
        )

    def _step(self, new: Sequence[NewRequestData], finished: set[str]) -> Any:
        counts = {request.req_id: len(request.prompt_token_ids or ()) for request in new}
        scheduled = SchedulerOutput(
            scheduled_new_reqs=list(new),
            scheduled_cached_reqs=CachedRequestData.make_empty(),
            num_scheduled_tokens=counts,
            total_num_scheduled_tokens=sum(counts.values()),
            scheduled_spec_decode_tokens={},
            scheduled_encoder_inputs={},
            num_common_prefix_blocks=[0] * len(self.model_runner.kv_cache_config.kv_cache_groups),
            finished_req_ids=finished,
            free_encoder_mm_hashes=[],
        )
        result = self.execute_model(scheduled)
        if result is None:
            result = self.sample_tokens(None)
        return result.get_output() if hasattr(result, "get_output") else result
