"""The arguments of recipes that train: Trainer's own plus ours.

Nothing here imports torch before it is needed: `check_command_line` in launching.py parses a command line without it.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hfgpt.arguments.card import CARD_HELP, checked_settings
from hfgpt.arguments.keys import default_of, machine_key, method_key, output_key, trainer_key, training_key
from hfgpt.arguments.mappings import read_mapping
from hfgpt.arguments.optimizers import OPTIMIZERS, OptimizerSettings
from hfgpt.arguments.options import REFUSED, check_attention, check_ranges, check_reporters, check_training, refuse_options
from hfgpt.arguments.processes import default_cpu_threads, meeting, refuse_missing_processes, refuse_several_gpus, time_of_start
from hfgpt.arguments.resuming import ROWS_PER_STEP, ResumeKeys
from hfgpt.arguments.sharding import asked_for_fsdp, build_whole_models, check_fsdp, refuse_other_divisions
from hfgpt.errors import UserError
from hfgpt.files import expand_home


def bfloat16_is_fast() -> bool:
    """Whether the processor multiplies matrices faster in bfloat16 than in float32: CUDA since Ampere, AMX on a CPU.

    AVX512-BF16 without AMX is slower. Measured: 2048 x 768 x 3072 on one core, 84 GFLOP/s against 161 in float32; a training step
    of the quickstart 0.41 s against 0.29 s; 2026-11-26.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported()


@dataclass
class RunArguments(ResumeKeys, TrainingArguments):
    """What every recipe that trains accepts: all of Trainer's keys, and these. Keys with a default other than Trainer's are
    repeated.

    Attributes:
        resolved: the given values that differ from the defaults.
        explicit: the keys that were given, whatever their value.
        started: when the run began, in seconds since the epoch.
    """

    if TYPE_CHECKING:  # not fields of the dataclass: they describe the fields
        resolved: dict[str, Any] = field(init=False)
        explicit: frozenset[str] = field(init=False)
        started: float = field(init=False)

    output_dir: str = output_key("", "Folder for the model.", required=True)
    overwrite: bool = output_key(False, "Discard the contents of output_dir and start again.")
    keep: Literal["best", "last"] = output_key("best", "Keep the best state on the validation set, or the one after the last step.")
    save_total_limit: int | None = output_key(2, "Number of checkpoints to keep, including the best.")
    logging_steps: float = output_key(0.01, "Steps between log lines; below 1, a share of all steps.")
    logging_first_step: bool = trainer_key(True, "Also log the first step.")
    report_to: list[str] = output_key(
        ["none"], "Where to report metrics during the run: trackio, tensorboard, wandb, or several of them."
    )
    card: dict | str | None = output_key(None, CARD_HELP)

    attn_implementation: str | None = machine_key(
        None, "eager, sdpa, flash_attention_2 or flex_attention (default: sdpa on a GPU, eager on a CPU)."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = machine_key(
        "auto", "Precision of the matrix products; auto is bf16 if the processor is fast at it, else fp32."
    )
    cpu_threads: int | None = machine_key(
        None, "Threads per process on a CPU (default: OMP_NUM_THREADS, but not a launcher's 1; else its share of all cores)."
    )
    ddp_find_unused_parameters: bool | None = trainer_key(
        False, "With several processes, look for parameters without a gradient in every step; there are none."
    )
    dataloader_pin_memory: bool = trainer_key(True, "Pin batches in memory for the GPU, if there is one.")

    optimizer: str = method_key(
        "adamw", "AdamW, or Muon for the blocks' matrices and AdamW for the rest (method full).", choices=OPTIMIZERS
    )
    muon_learning_rate: float = method_key(0.002, "Peak learning rate of the matrices that Muon updates.")
    embedding_learning_rate: float | None = method_key(
        None, "With Muon: peak learning rate of a token embedding that is not tied to the head."
    )

    per_device_train_batch_size: int = training_key(16, "Rows per device per step.")
    per_device_eval_batch_size: int = training_key(16, "Rows per device per evaluation step.")
    skip_loss_spikes: float = training_key(0.0, "Skip steps whose gradient norm exceeds the median this many times; 0 skips none.")

    def __new__(cls, *positional, **named):
        # Recorded before __post_init__ derives more values: the given ones, from a command line or from Python, repeat the run.
        arguments = super().__new__(cls)
        given = dict(zip([one.name for one in fields(cls) if one.init], positional)) | named
        if given.get("max_steps") == -1:  # switches off for one run what its file sets, as if nobody had set it
            del given["max_steps"]
        arguments.explicit, arguments.started = frozenset(given), time_of_start()
        arguments.resolved = {
            one.name: given[one.name] for one in fields(cls) if one.name in given and given[one.name] != default_of(one)
        }
        for name in ("resume", "allow_change"):  # they belong to this start, not to the run
            arguments.resolved.pop(name, None)
        return arguments

    def __post_init__(self):
        refuse_missing_processes()
        expand_home(self, "output_dir")
        self.check_resuming([one.name for one in fields(self)])
        self.require(output_dir="give a folder for the model with --output_dir.")
        if self.hub_token is not None:
            raise UserError(
                "hub_token is given as an argument, which is not allowed, because everybody on this machine can read arguments "
                "(ps, the shell's history, YAML files). Set the variable HF_TOKEN or run `hf auth login` instead, and revoke that "
                "token."
            )
        if self.push_to_hub and HubStrategy(self.hub_strategy) not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise UserError(
                f"hub_strategy is {HubStrategy(self.hub_strategy).value!r}; only 'end' and 'every_save' are allowed, because the "
                f"others push optimizer states, which are pickles that nobody should load. Keep checkpoints on your own disks."
            )
        if self.train_sampling_strategy == "batch_rebalance":
            raise UserError(
                "train_sampling_strategy is batch_rebalance, whose batches vary in size and whose order no seed changes; give "
                "random or group_by_length."
            )
        self.card = checked_settings(self.card)
        for name in self._VALID_DICT_FIELDS:  # Trainer would read them only as JSON, and some also as a file
            value = getattr(self, name)
            if isinstance(value, str) and (value.startswith("{") or name.endswith("_kwargs")):
                setattr(self, name, json.dumps(read_mapping(value, name, example="'{NAME: VALUE}'")))
        refuse_options(self.resolved, REFUSED)
        self.check_needs(self.resolved)
        refuse_options(self.resolved, OPTIMIZERS.find(self.optimizer).refuses)
        check_ranges(vars(self))  # as given: Trainer replaces some
        if self.bf16 or self.fp16:
            raise UserError("here, bf16 and fp16 are set through precision; give --precision bf16 (or fp16, fp32, auto).")
        if self.load_best_model_at_end or self.metric_for_best_model is not None or self.greater_is_better is not None:
            raise UserError(
                "here, load_best_model_at_end, metric_for_best_model and greater_is_better are set through keep; give --keep best "
                "or --keep last (for a classifier, --best_by sets the metric)."
            )
        import torch  # only from here on, so that the refusals above do not need it

        precision = self.precision
        if precision == "auto":
            precision = "bf16" if bfloat16_is_fast() else "fp32"
        self.bf16, self.fp16 = precision == "bf16", precision == "fp16"
        if not torch.cuda.is_available():
            self.use_cpu = True  # Trainer refuses bf16 on a CPU that was not requested
            self.dataloader_pin_memory = False
        if self.attn_implementation is None:
            # Measured: at 256 tokens in bfloat16, sdpa's backward on a CPU takes 4x that of plain attention (torch 2.13).
            self.attn_implementation = "eager" if self.use_cpu else "sdpa"
        check_attention(self.attn_implementation, on_cpu=self.use_cpu)
        refuse_other_divisions(self)
        if str(self.fsdp).lower() in ("true", "false"):  # as written in a YAML file; transformers takes a word for FSDP1's options
            self.fsdp = cast(Any, str(self.fsdp).lower() == "true")
        try:
            with meeting():
                super().__post_init__()
        except ImportError as error:  # for a package that an option needs, such as deepspeed
            raise UserError(str(error)) from None
        build_whole_models(self)
        refuse_several_gpus(self.n_gpu)
        check_reporters(self.report_to)
        check_training(self, given=self.resolved)
        check_fsdp(self)
        if self.use_cpu:
            torch.set_num_threads(self.cpu_threads or default_cpu_threads())

    def optimizer_settings(self) -> OptimizerSettings:
        """The settings for the entries of `OPTIMIZERS`."""
        return OptimizerSettings(
            learning_rate=self.learning_rate,
            muon_learning_rate=self.muon_learning_rate,
            embedding_learning_rate=self.embedding_learning_rate,
            weight_decay=self.weight_decay,
            betas=(self.adam_beta1, self.adam_beta2),
            eps=self.adam_epsilon,
            in_float32=not (self.bf16 or self.fp16),
        )

    @property
    def chosen_precision(self) -> str:
        """bf16, fp16 or fp32; never auto."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(str(self.output_dir))

    def run_settings(self) -> dict[str, Any]:
        """What identifies a run and how it resumes, for `hfgpt.training.run.Run`."""
        how = self.values_of("overwrite", "card", "resume", "allow_change")
        return dict(folder=self.folder, settings=self.resolved, values=self.values_in_effect(), **how)

    def values_in_effect(self) -> dict[str, Any]:
        """The final values of the keys, as JSON types, and values derived from several of them."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.init}
        values |= {"precision": self.chosen_precision, "processes": self.world_size}
        values[ROWS_PER_STEP] = self.train_batch_size * self.gradient_accumulation_steps * self.world_size
        return json.loads(json.dumps(values, default=str))

    def describe_hardware(self) -> str:
        """Precision, attention and devices, for the line at the start of a run."""
        import torch

        return (
            f"{self.chosen_precision} ({'chosen for this processor' if self.precision == 'auto' else 'as requested'}), "
            f"{self.attn_implementation} "
            f"attention, {self.world_size} x {self.device.type}{' with FSDP2' if asked_for_fsdp(self) else ''}"
            + (f", {torch.get_num_threads()} CPU threads per process" if self.device.type == "cpu" else "")
        )
