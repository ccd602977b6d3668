"""An actor in a thread: the real port and the published weights, but plain transformers instead of an engine.

Groups are sampled one at a time in one fixed shape, so what it answers depends on weights and seeds only.
"""

import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from isentrope.errors import UnreachableError
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import ActorStage, ActorState, RunView
from isentrope.rollout.config import MAX_REWARD
from isentrope.rollout.data.demonstrations import demonstration_tokens
from isentrope.rollout.data.prompts import open_prompts, tokenize
from isentrope.rollout.data.rows import Row
from isentrope.rollout.wire.control import RunState
from isentrope.rollout.wire.seeds import eval_seed, sampling_seed
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import Demonstration, EvalOrder, EvalResult, Finish, Group, Response, WorkOrder
from isentrope.rollout.wire.weights import Manifest, verify, version_folder


class ToyActor(threading.Thread):
    """Serves `run` until it is told to stop; `error` is what it died of."""

    def __init__(self, url: str, run: str, name: str = "a1") -> None:
        super().__init__(name=name, daemon=True)
        self.error: BaseException | None = None
        self.served = 0
        self.answers = threading.Event()
        """Set: it answers evaluations."""
        self.follows = threading.Event()
        """Set: it loads newer weights than its first."""
        self.last: int | None = None
        """It takes no more groups once it has served so many."""
        self.unbounded: frozenset[int] = frozenset()
        """Groups of which one reward is as large as a reward may be."""
        self.answers.set()
        self.follows.set()
        self._broker = Broker.connect(url, run)
        self._stopped = threading.Event()
        self._manifest: Manifest | None = None
        self._waiting: list[WorkOrder] = []

    def stop(self) -> None:
        """End it, and hand back its leases."""
        self._stopped.set()
        self.join()
        self._broker.close()

    def run(self) -> None:
        """The thread."""
        try:
            while not self._stopped.is_set():
                with contextlib.suppress(UnreachableError):  # no learner has opened the run yet
                    self._serve(RunView(self._broker).spec(1.0))
        except BaseException as error:
            self.error = error
            raise

    def _serve(self, spec: RunSpec) -> None:
        self._port = ActorPort(self._broker, self.name, spec)
        self._load_skeleton(spec)
        while not self._stopped.is_set():
            self._turn(spec)
        self._port.leave()

    def _load_skeleton(self, spec: RunSpec) -> None:
        self._network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(spec.model_dir)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(spec.model_dir)
        self._prompts = open_prompts(spec.data, run_folder=Path(spec.run_folder), seed=spec.seed)

    def _is_over(self) -> bool:
        control = self._port.view.control()
        return control is not None and control.state is RunState.STOP

    def _turn(self, spec: RunSpec) -> None:
        newest = self._port.view.weights()
        wanted = newest is not None and (self._manifest is None or self.follows.is_set())
        if newest is not None and wanted and (self._manifest is None or newest.version != self._manifest.version):
            self._load(newest.model_copy(update={"folder": str(version_folder(spec.output_dir, newest.version))}))
        if self._manifest is None or self._is_over():
            self._heartbeat(ActorStage.JOINING)
            self._stopped.wait(0.02)
            return
        self._heartbeat(ActorStage.SERVING)
        for order in self._port.take_eval(1, 0.0, self._manifest.version) if self.answers.is_set() else ():
            self._port.publish_eval(self._evaluate(order, spec), order)
        if not self._waiting and self.served != self.last:
            self._waiting += self._port.take(1, 0.02)
        ready = [order for order in self._waiting if order.min_version <= self._manifest.version]
        self._waiting = [order for order in self._waiting if order not in ready]
        for order in ready:
            self._port.publish(self._answer(order, spec), order)
            self.served += 1

    def _load(self, manifest: Manifest) -> None:
        weights = {name: value for path in verify(manifest) for name, value in load_file(path).items()}
        missing, unexpected = self._network.load_state_dict(weights, strict=False)
        assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
        self._manifest = manifest

    def _heartbeat(self, stage: ActorStage) -> None:
        version, digest = (self._manifest.version, self._manifest.digest) if self._manifest else (0, "")
        self._port.heartbeat(ActorState(id=self._port.actor, state=stage, version=version, digest=digest))

    def _answer(self, order: WorkOrder, spec: RunSpec) -> Group:
        row = self._prompts.train(order.seq)
        prompt = self._prompt(row, spec)
        seeds = [sampling_seed(spec.seed, order.seq, order.attempt, index) for index in range(spec.sampling.group_size)]
        group = replace(self._group(prompt, seeds, spec, order.seq, order.attempt), source=row.source)
        if order.seq in self.unbounded:
            first, *others = group.responses
            group = replace(group, responses=(replace(first, reward=MAX_REWARD), *others))
        if (
            spec.demonstrations
            and (tokens := demonstration_tokens(row, self._tokenizer, spec.sampling.max_new_tokens)) is not None
        ):
            shown = self._response(tokens, np.zeros(len(tokens), np.float32), 0, spec)
            group = replace(
                group, demonstrations=(Demonstration(tokens, shown.reward, shown.reward_parts, shown.answer),)
            )
        return replace(group, greedy_reward=self._greedy_reward(prompt, spec)) if spec.greedy else group

    @torch.no_grad()
    def _greedy_reward(self, prompt: np.ndarray, spec: RunSpec) -> float:
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        for _ in range(spec.sampling.max_new_tokens):
            logits = self._network(input_ids=ids, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(1, keepdim=True)], 1)
        tokens = ids[0, len(prompt) :].numpy()
        return self._response(tokens, np.zeros(len(tokens), np.float32), 0, spec).reward

    def _evaluate(self, order: EvalOrder, spec: RunSpec) -> EvalResult:
        row = self._prompts.eval(order.index, order.name)
        prompt = self._prompt(row, spec)
        seeds = [eval_seed(spec.seed, order.name, order.index, sample) for sample in range(order.samples)]
        group = replace(self._group(prompt, seeds, spec, order.index, 0), source=row.source)
        return EvalResult(order.name, order.version, group)

    def _prompt(self, row: Row, spec: RunSpec) -> np.ndarray:
        return tokenize(row, self._tokenizer, max_new_tokens=spec.sampling.max_new_tokens, max_model_len=128).ids

    @torch.no_grad()
    def _group(self, prompt: np.ndarray, seeds: list[int], spec: RunSpec, seq: int, attempt: int) -> Group:
        assert self._manifest is not None
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        ids = torch.from_numpy(np.tile(prompt.astype(np.int64), (len(seeds), 1)))
        logps = []
        for _ in range(spec.sampling.max_new_tokens):
            logits = self._network(input_ids=ids, use_cache=False).logits[:, -1] / spec.sampling.temperature
            noise = torch.stack([torch.rand(logits.shape[1], generator=each) for each in generators])
            token = (logits - torch.log(-torch.log(noise))).argmax(1, keepdim=True)
            logps.append(torch.log_softmax(logits, 1).gather(1, token))
            ids = torch.cat([ids, token], 1)
        tokens = ids[:, len(prompt) :].numpy().astype(np.int32)
        logp = torch.cat(logps, 1).numpy().astype(np.float32)
        responses = [self._response(t, p, seed, spec) for t, p, seed in zip(tokens, logp, seeds, strict=True)]
        return Group(seq, attempt, self._port.actor, prompt, tuple(responses), spec.sampling.temperature)

    def _response(self, tokens: np.ndarray, logp: np.ndarray, seed: int, spec: RunSpec) -> Response:
        """The reward is the share of small token ids: something any network learns quickly."""
        assert self._manifest is not None
        ends = np.flatnonzero(tokens == self._tokenizer.eos_token_id)
        length = int(ends[0]) + 1 if len(ends) else len(tokens)
        reward = float((tokens[:length] < 23).mean())
        return Response(
            tokens=tokens[:length],
            logp_rollout=logp[:length],
            mask=np.ones(length, np.bool_),
            span_start=np.zeros(1, np.int32),
            span_version=np.full(1, self._manifest.version, np.int64),
            finish=Finish.STOP if len(ends) else Finish.LENGTH,
            reward=reward,
            seed=seed,
            reward_parts={str(spec.data.train): reward},
        )
