"""Work on whole matrices, with each matrix handled by one process of a run instead of by all.

Muon orthogonalizes every matrix at every step. With copies of the model (DDP), all processes would do the same work; with shards
(FSDP2), no process has a whole matrix. Both handle as many matrices at a time as there are processes, one each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard

from hfgpt.errors import UserError


def num_workers() -> int:
    """The number of processes in this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def in_turns(parameters: Sequence[torch.Tensor]) -> Iterator[Sequence[torch.Tensor]]:
    """The parameters with a gradient, as many at a time as there are processes, grouped by size so that no process waits."""
    some = [parameter for parameter in parameters if parameter.grad is not None]
    if (workers := num_workers()) > 1:
        some.sort(key=torch.Tensor.numel, reverse=True)
    return (some[start : start + workers] for start in range(0, len(some), workers))


def divided(matrices: list[torch.Tensor], function: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Apply `function` to each matrix, each in one process; called in every process with the same few matrices.

    Args: `matrices`: at most as many as there are processes, whole in each or sharded over all of them by rows.
    Returns: the results in the same form as the matrices: whole in each process, or sharded.
    Cost: for whole matrices, one broadcast each; sharded ones are sent once to their worker and once back.
    """
    if isinstance(matrices[0], DTensor):
        return _of_shares(cast(list[DTensor], matrices), function)
    if num_workers() == 1:
        return [function(matrix) for matrix in matrices]
    mine = dist.get_rank()
    results = [function(one) if number == mine else torch.empty_like(one) for number, one in enumerate(matrices)]
    results = [one.contiguous() for one in results]
    for handle in [dist.broadcast(one, src=number, async_op=True) for number, one in enumerate(results)]:
        handle.wait()
    return results


def _of_shares(matrices: list[DTensor], function: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    mesh, placements = matrices[0].device_mesh, matrices[0].placements
    if mesh.ndim != 1 or placements != (Shard(0),):
        raise UserError(
            f"Muon needs matrices sharded by rows over all processes, but these are {placements}; use optimizer: adamw."
        )
    group, workers, mine = mesh.get_group(), mesh.size(), mesh.get_local_rank()
    shares = [matrix.to_local() for matrix in matrices]
    here = [share.numel() for share in shares] + [0] * (workers - len(shares))
    # The share of each process of the matrix that is whole here: torch.chunk's rows.
    columns = matrices[mine].shape[1] if mine < len(matrices) else 0
    rows = [0] * workers
    if columns:
        for number, part in enumerate(torch.arange(matrices[mine].shape[0]).chunk(workers)):
            rows[number] = len(part)
    there = [count * columns for count in rows]
    whole = shares[0].new_empty(sum(there))
    dist.all_to_all_single(whole, torch.cat([share.flatten() for share in shares]), there, here, group=group)
    if columns:
        whole = function(whole.view(-1, columns)).contiguous().flatten()
    back = whole.new_empty(sum(here))
    dist.all_to_all_single(back, whole, here, there, group=group)
    # Processes without a matrix contribute nothing.
    parts = [part.view(share.shape) for part, share in zip(back.split(here), shares)]
    return [
        DTensor.from_local(part, mesh, placements, run_check=False, shape=matrix.shape, stride=matrix.stride())
        for part, matrix in zip(parts, matrices)
    ]
