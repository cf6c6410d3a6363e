"""The few names that transformers' common tests import from files which its source distribution leaves out."""

import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


class ExportTesterMixin:
    """In the repository, more export tests; ours are in tests/model/test_compile_and_export.py."""


class GenerationTesterMixin:
    """In the repository, the generation tests; ours are in tests/ecosystem/test_generation.py."""


# Fields that every configuration takes, with values other than the defaults.
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": False,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["HfGptModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    pass


def _start_rank_processes(function, *, args: tuple, nprocs: int) -> None:
    # Forked from one process that has imported everything and run nothing, so a rank starts at once.
    multiprocessing.set_forkserver_preload([f"{__package__}.test_hfgpt"])
    multiprocessing.start_processes(function, args=args, nprocs=nprocs, start_method="forkserver")


def _join_and_run(rank: int, function, store: str, world_size: int, args: tuple) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


def run_distributed(*, world_size: int):
    """Run `function(rank, *args)` in `world_size` processes of one gloo group."""

    def launcher(function):
        def run(*args) -> None:
            with tempfile.TemporaryDirectory() as folder:
                _start_rank_processes(_join_and_run, args=(function, f"{folder}/store", world_size, args), nprocs=world_size)

        return run

    return launcher
