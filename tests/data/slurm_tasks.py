"""Does what Slurm would do with an engine's scripts: runs each stage's pickled pipeline for each task of its array."""

import json
import os
import re


def do_tasks(folder, monkeypatch, *, backwards=False):
    """Run the stages in the order of submit.sh, in this process, and return their names."""
    import dill

    programs = folder.parent / "bin"
    programs.mkdir(exist_ok=True)
    scontrol = programs / "scontrol"  # the only Slurm program that datatrove calls within a job
    scontrol.write_text("#!/bin/sh\necho localhost\n")
    scontrol.chmod(0o755)
    stages = re.findall(r"^(\w+)=\$\(sbatch", (folder / "submit.sh").read_text(), flags=re.MULTILINE)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(programs), prepend=os.pathsep)
        patched.setenv("SLURM_NODELIST", "localhost")
        patched.setenv("RAYON_NUM_THREADS", "1")
        for stage in stages[:-1]:
            logs = folder / "logs" / stage
            number = len(json.loads((logs / "ranks_to_run.json").read_text()))
            for task in sorted(range(number), reverse=backwards):  # the jobs of an array can end in any order
                patched.setenv("SLURM_ARRAY_TASK_ID", str(task))
                with (logs / "executor.pik").open("rb") as file:
                    dill.load(file).run()
    scontrol.unlink()
    programs.rmdir()
    return stages
