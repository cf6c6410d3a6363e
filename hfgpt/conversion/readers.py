"""The source formats of hfgpt: GPT2LMHeadModel, the book's GPTModel, nanoGPT, OpenAI's TensorFlow files, and hfgpt itself.

Each has a `Reader`, an entry of `SOURCES`; most of them specify the layout of their tensors (layouts.py) and build the same model.
"""

import re
from pathlib import Path
from typing import TypeVar, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedConfig
from transformers.activations import ACT2FN

from hfgpt.conversion.checkpoints import check_tensors, read_folder, read_tensorflow
from hfgpt.conversion.layouts import BOOK, GPT2, GPT2_FIELDS, HEADS, NANOGPT, OPENAI, Biases, Entry, Layout, entries, take_in
from hfgpt.conversion.recognition import Contents, attention_shape
from hfgpt.conversion.weights_in import Converted, Reader, empty_model, read_generation_config
from hfgpt.errors import UserError
from hfgpt.files import read_json
from hfgpt.fingerprint import check_equal, logits_of, probe_rows
from hfgpt.model.configuration_hfgpt import GPT2_SIZES, HfGptConfig
from hfgpt.model.modeling_hfgpt import HfGptForCausalLM, HfGptForSequenceClassification

AnyConfig = TypeVar("AnyConfig", bound=PreTrainedConfig)

# Each published width has one number of heads, which a bare state dict does not contain.
PUBLISHED_HEADS = {width: heads for _, width, heads in GPT2_SIZES.values()}


def _read_gpt2(contents: Contents) -> Converted:
    path = contents.path
    source = _load_config(GPT2Config, path)
    for name, needed in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if getattr(source, name) is not needed:
            raise UserError(
                f"{path / 'config.json'}: {name} is {getattr(source, name)}, but must be {needed}; hfgpt has no such switch."
            )
    tensors = read_folder(path)
    if not any(name.startswith("transformer.") for name in tensors):
        tensors = {name if name in HEADS else f"transformer.{name}": tensor for name, tensor in tensors.items()}
    is_classifier = "score.weight" in tensors
    labels = {name: getattr(source, name) for name in ("id2label", "label2id", "problem_type") if is_classifier}
    config = _config(
        path / "config.json",
        **{ours: getattr(source, theirs) for ours, theirs in GPT2_FIELDS.items()},
        **_special_ids(source),
        **labels,
    )
    if is_classifier:
        tensors.pop("lm_head.weight", None)  # left over from pretraining; a classifier has none
        heads = ("score.weight",)
    else:
        # Published files leave out the head, because it is the embedding; some contain it again.
        heads = ("lm_head.weight",) if "lm_head.weight" in tensors or not config.tie_word_embeddings else ()
    converted = _build(path, "gpt2", GPT2, tensors, config, heads=heads)
    converted.model.generation_config = read_generation_config(path) or GenerationConfig.from_model_config(config)
    return converted


def _read_hfgpt(contents: Contents) -> Converted:
    path = contents.path
    settings = read_json(path / "config.json")
    tensors = read_folder(path)
    config = _load_config(HfGptConfig, path)
    model_class = HfGptForSequenceClassification if "score.weight" in tensors else HfGptForCausalLM
    # Our fine-tuned language models name the Auto class, because `transformers serve` only finds that.
    names = [model_class.__name__] + (["AutoModelForCausalLM"] if model_class is HfGptForCausalLM else [])
    if settings.get("architectures") not in (None, *([name] for name in names)):
        raise UserError(
            f"{path} contains {' and '.join(settings['architectures'])}; only HfGptForCausalLM and HfGptForSequenceClassification "
            f"can be converted, because they have native twins."
        )
    model = empty_model(model_class, config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings and "lm_head.weight" not in tensors and "model.embed_tokens.weight" in tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    if model_class is HfGptForSequenceClassification:
        tensors.pop("lm_head.weight", None)
    check_tensors(tensors, shapes, source=str(path), title=f"its config.json ({model_class.__name__})")
    dtype = tensors["model.embed_tokens.weight"].dtype
    model.load_state_dict(tensors, strict=True)
    model.generation_config = read_generation_config(path) or GenerationConfig.from_model_config(config)
    return Converted(path, "hfgpt", model, dtype)


def _read_book(contents: Contents, *, num_attention_heads: int | None = None, hidden_act: str | None = None) -> Converted:
    path, tensors = contents.path, contents.tensors
    if hidden_act is not None:
        raise UserError(f"hidden_act is {hidden_act!r}, but the book's GPTModel only has gelu_new; leave it out.")
    vocab_size, width = _shape(tensors, "tok_emb.weight", path)
    biases = Biases(query_key_value=any(name.endswith(".W_query.bias") for name in tensors))
    head = tensors.get("out_head.weight")
    # The book copies the embedding into the head when it loads OpenAI's weights; if they are bit for bit the same, they are tied.
    tied = head is not None and torch.equal(head, tensors["tok_emb.weight"])
    config = _config(
        path,
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=_shape(tensors, "trf_blocks.0.ff.layers.0.weight", path)[0],
        num_hidden_layers=_num_blocks(tensors, BOOK, path),
        num_attention_heads=_heads(width, num_attention_heads, path),
        max_position_embeddings=_shape(tensors, "pos_emb.weight", path)[0],
        norm_eps=1e-5,
        hidden_act="gelu_new",  # its GELU uses tanh
        tie_word_embeddings=tied,
    )
    converted = _build(path, "book", BOOK, tensors, config, heads=("lm_head.weight",), biases=biases)
    if not biases.query_key_value:
        converted.notes.append(
            "its queries, keys and values have no bias (qkv_bias=False); ours are zero, which is the same function."
        )
    return converted


def _read_nanogpt(contents: Contents, *, num_attention_heads: int | None = None, hidden_act: str | None = None) -> Converted:
    path, tensors = contents.path, contents.tensors
    model_args = contents.checkpoint.get("model_args") or {}
    if not isinstance(model_args, dict):
        raise UserError(f"{path}: model_args is a {type(model_args).__name__}, but must be a dict.")
    vocab_size, width = _shape(tensors, "transformer.wte.weight", path)
    has_bias = any(name.endswith(".attn.c_attn.bias") for name in tensors)
    found = {
        "vocab_size": vocab_size,
        "n_embd": width,
        "block_size": _shape(tensors, "transformer.wpe.weight", path)[0],
        "n_layer": _num_blocks(tensors, NANOGPT, path),
        "bias": has_bias,
    }
    for name, value in found.items():
        if name in model_args and model_args[name] != value:
            raise UserError(
                f"{path}: model_args says {name} {model_args[name]}, but the tensors say {value}; the file contradicts itself."
            )
    heads = model_args.get("n_head")
    if heads is not None and num_attention_heads not in (None, heads):
        raise UserError(f"{path}: model_args says n_head {heads}, but num_attention_heads is {num_attention_heads}; leave it out.")
    config = _config(
        path,
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=_shape(tensors, "transformer.h.0.mlp.c_fc.weight", path)[0],
        num_hidden_layers=found["n_layer"],
        num_attention_heads=heads or _heads(width, num_attention_heads, path),
        max_position_embeddings=found["block_size"],
        norm_eps=1e-5,
        # The exact GELU since 2023; before that, nanoGPT used the tanh version, which is hidden_act gelu_new.
        hidden_act=hidden_act or "gelu",
        attention_bias=has_bias,
        mlp_bias=has_bias,
        **{f"{where}_dropout": model_args.get("dropout", 0.0) for where in ("embedding", "residual", "attention")},
    )
    biases = Biases(*[has_bias] * 4)
    converted = _build(path, "nanogpt", NANOGPT, tensors, config, heads=("lm_head.weight",), biases=biases)
    if not has_bias:
        converted.notes.append("its norms have no bias (bias=False); ours are zero, which is the same function.")
    return converted


def _read_openai(contents: Contents) -> Converted:
    path = contents.path
    hparams = read_json(path / "hparams.json")
    names = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    missing = [name for name in names if not isinstance(hparams.get(name), int)]
    if missing:
        raise UserError(f"{path / 'hparams.json'} lacks the numbers {', '.join(missing)}; download it again.")
    config = _config(
        path / "hparams.json",
        vocab_size=hparams["n_vocab"],
        hidden_size=hparams["n_embd"],
        num_hidden_layers=hparams["n_layer"],
        num_attention_heads=hparams["n_head"],
        max_position_embeddings=hparams["n_ctx"],
    )
    tensors = {name: tensor for name, tensor in read_tensorflow(path).items() if name != "global_step"}
    return _build(path, "openai", OPENAI, tensors, config, heads=())


def _build(
    path: Path,
    name: str,
    layout: Layout,
    tensors: dict[str, torch.Tensor],
    config: HfGptConfig,
    *,
    heads: tuple[str, ...],
    biases: Biases = Biases(),  # noqa: B008  (frozen)
) -> Converted:
    table = entries(layout, config, biases=biases, heads=heads)
    tensors = _without_buffers(tensors, layout)
    check_tensors(tensors, {entry.theirs: entry.shape for entry in table}, source=str(path), title=layout.title)
    check_tied(tensors, table, config, path)
    ours = take_in(tensors, table)
    dtype = tensors[table[0].theirs].dtype
    model_class = HfGptForSequenceClassification if "score.weight" in heads else HfGptForCausalLM
    if model_class is HfGptForCausalLM and config.tie_word_embeddings:
        ours["lm_head.weight"] = ours["model.embed_tokens.weight"]
    model = empty_model(model_class, config)
    # A bias missing in theirs is zero in ours: the same function.
    missing = (name for name, _ in model.named_parameters() if name.endswith(".bias") and name not in ours)
    zeros = {name: torch.zeros_like(model.get_parameter(name)) for name in missing}
    model.load_state_dict(ours | zeros, strict=True)
    return Converted(path, name, model, dtype)


def check_tied(tensors: dict[str, torch.Tensor], table: list[Entry], config: HfGptConfig, path: Path) -> None:
    """Raises: ValueError if a head that should be tied to the embedding has different values."""
    theirs = {name: entry.theirs for entry in table for name in entry.ours}
    if not config.tie_word_embeddings or "lm_head.weight" not in theirs:
        return
    head, embedding = theirs["lm_head.weight"], theirs["model.embed_tokens.weight"]
    if not torch.equal(tensors[head], tensors[embedding]):
        raise UserError(
            f"{path}: {head} should equal {embedding} (the two are tied), but has different values; it is unclear which one counts."
        )


def _without_buffers(tensors: dict[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not layout.buffers.fullmatch(name)}


def _config(path: Path, **fields) -> HfGptConfig:
    if fields.get("hidden_act", "gelu_new") not in ACT2FN:
        raise UserError(f"{path}: hidden_act is {fields['hidden_act']!r}; transformers.activations.ACT2FN has {', '.join(ACT2FN)}.")
    # Otherwise, a head width other than the quotient would be accepted as an explicit head_dim; here it must be the quotient.
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if heads < 1 or width % heads:
        raise UserError(f"{path}: num_attention_heads is {heads}, but must divide the hidden_size {width}.")
    try:
        return HfGptConfig(**{name: value for name, value in fields.items() if value is not None})
    except StrictDataclassError as error:
        raise UserError(f"{path}: {error.__cause__ or error}") from None


def _load_config(config_class: type[AnyConfig], path: Path) -> AnyConfig:
    try:
        return cast(AnyConfig, config_class.from_pretrained(path))
    except StrictDataclassError as error:
        raise UserError(f"{path / 'config.json'}: {error.__cause__ or error}") from None


def _special_ids(source: GPT2Config) -> dict[str, int | None]:
    # GPT2Config always fills in 50256, even for a smaller vocabulary.
    ids = {name: getattr(source, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {name: value for name, value in ids.items() if isinstance(value, int) and 0 <= value < source.vocab_size}


def _heads(width: int, given: int | None, path: Path) -> int:
    heads = given or PUBLISHED_HEADS.get(width)
    if heads is None:
        published = ", ".join(f"{heads} for {width}" for width, heads in PUBLISHED_HEADS.items())
        raise UserError(
            f"{path} does not say how many attention heads it has, and its width of {width} is not one of the published ones "
            f"({published}); give --num_attention_heads."
        )
    return heads


def _shape(tensors: dict[str, torch.Tensor], name: str, path: Path) -> tuple[int, int]:
    if name not in tensors:
        raise UserError(f"{path} lacks the tensor {name}, which determines the model's shape; it has {', '.join(tensors)}.")
    if tensors[name].ndim != 2:
        raise UserError(f"{path}: {name} has the shape {tuple(tensors[name].shape)}, but must have two axes.")
    rows, columns = tensors[name].shape
    return rows, columns


def _num_blocks(tensors: dict[str, torch.Tensor], layout: Layout, path: Path) -> int:
    pattern = re.compile(re.escape(layout.block).replace(r"\{\}", r"(\d+)"))
    numbers = [int(match[1]) for name in tensors if (match := pattern.match(name))]
    if not numbers:
        raise UserError(f"{path} has no blocks ({layout.block.format('N')}*); it has {', '.join(tensors)}.")
    return max(numbers) + 1


def _compare_with_gpt2(converted: Converted) -> float:
    # What transformers' own GPT-2 loads from the same folder.
    source_class = GPT2LMHeadModel if isinstance(converted.model, HfGptForCausalLM) else GPT2ForSequenceClassification
    source = source_class.from_pretrained(converted.source, dtype=torch.float32)
    rows = probe_rows(converted.model)
    return check_equal(logits_of(converted.model, rows), logits_of(source, rows), what=f"hfgpt and {source_class.__name__}")


def _is_nanogpt(contents: Contents) -> bool:
    rows, columns = attention_shape(contents.tensors) or (0, 0)
    return "model_args" in contents.checkpoint or rows > columns  # nn.Linear stores (3E, E), GPT-2's Conv1D (E, 3E)


_UNSAID = ("num_attention_heads", "hidden_act")
GPT2_READER = Reader(lambda contents: contents.model_type == "gpt2", _read_gpt2, compare=_compare_with_gpt2)
HFGPT_READER = Reader(lambda contents: contents.model_type == "hfgpt", _read_hfgpt)
BOOK_READER = Reader(
    lambda contents: any(name.startswith(("tok_emb.", "trf_blocks.")) for name in contents.tensors), _read_book, options=_UNSAID
)
NANOGPT_READER = Reader(_is_nanogpt, _read_nanogpt, options=_UNSAID)
OPENAI_READER = Reader(
    lambda contents: (contents.path / "hparams.json").is_file() and not (contents.path / "config.json").is_file(), _read_openai
)
