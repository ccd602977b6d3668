"""Processes that need not import anything: they are forked from one that has.

A rank alone imports for seconds, and the tests start dozens. The server of `multiprocessing` imports once in a session;
it has one thread and has computed nothing, so that a fork of it is as good as a new process.
"""

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from unittest.mock import patch

LIBRARIES = [
    "isentrope.learner.training.main",
    "isentrope.demo.model",
    "transformers.models.llama.modeling_llama",
    "pytest",  # which a fork imports as its main module
]
FIXED = {
    "OMP_NUM_THREADS": "1",  # read when torch is imported; results do not depend on the machine's cores
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking CUDA itself whether there is a GPU would spoil the forks
}


def context() -> ForkServerContext:
    """Return the context of such processes; their environment is that of the server, which has `FIXED`."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(LIBRARIES)
    with patch.dict(os.environ, FIXED):
        forkserver.ensure_running()
    return made
