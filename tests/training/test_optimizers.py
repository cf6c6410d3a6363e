import copy

import pytest
import torch

from hfgpt import HfGptConfig, HfGptForCausalLM, HfGptForSequenceClassification
from hfgpt.arguments.optimizers import OPTIMIZERS, Optimizer
from hfgpt.arguments.parsing import parse_arguments
from hfgpt.arguments.pretraining import PretrainArguments
from hfgpt.errors import UserError
from hfgpt.training.optimizers import MuonInFloat32, MuonWithAdamWFactory, matrices_and_others, orthogonalize, trainer_optimizer

SETTINGS = dict(muon_learning_rate=0.02, learning_rate=0.003, weight_decay=0.1)


def small_model(**fields):
    torch.manual_seed(0)
    return HfGptForCausalLM(HfGptConfig.modern(1, vocab_size=50, **fields))


def backward(model, seed):
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(ids, labels=ids).loss.backward()


def test_every_parameter_has_one_optimizer_and_only_block_matrices_have_muon():
    for model in (
        small_model(tie_word_embeddings=True),
        small_model(tie_word_embeddings=False),
        HfGptForCausalLM(HfGptConfig(num_hidden_layers=1, vocab_size=50)),
        HfGptForSequenceClassification(HfGptConfig.modern(1, vocab_size=50, num_labels=3)),
    ):
        matrices, others = matrices_and_others(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        assert sorted(names[id(parameter)] for parameter in [*matrices, *others]) == sorted(names.values())
        assert all(names[id(m)].startswith("model.layers.") and m.ndim == 2 for m in matrices)
        assert all("_proj.weight" not in names[id(other)] for other in others)


def test_a_step_is_muons_on_the_matrices_and_adamws_on_the_rest():
    ours, theirs = small_model(), small_model()
    optimizer = MuonWithAdamWFactory()(ours, **SETTINGS)
    matrices, others = matrices_and_others(theirs)
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(others, lr=0.003, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    before = copy.deepcopy(ours.state_dict())
    for seed in range(3):
        backward(ours, seed)
        backward(theirs, seed)
        optimizer.step()
        muon.step()
        adamw.step()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
        assert not torch.equal(tensor, before[name]), name


def test_its_state_saves_and_resumes_exactly(tmp_path):
    straight, resumed = small_model(), small_model()
    first = MuonWithAdamWFactory()(straight, **SETTINGS)
    for seed in range(2):
        backward(straight, seed)
        first.step()
    torch.save({"model": straight.state_dict(), "optimizer": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    second = MuonWithAdamWFactory()(resumed, **SETTINGS)
    second.load_state_dict(saved["optimizer"])
    for seed in range(2, 5):
        for model, optimizer in ((straight, first), (resumed, second)):
            backward(model, seed)
            optimizer.step()
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_an_embedding_that_is_not_the_head_can_have_a_rate_of_its_own():
    for tied, rates in ((True, [0.02, 0.003]), (False, [0.02, 0.003, 0.2])):
        model = small_model(tie_word_embeddings=tied)
        optimizer = MuonWithAdamWFactory()(model, embedding_learning_rate=0.2, **SETTINGS)
        assert [group["lr"] for group in optimizer.param_groups] == rates
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    [apart] = optimizer.param_groups[-1]["params"]
    assert apart is model.get_input_embeddings().weight


def test_the_short_way_of_orthogonalizing_long_matrices_gives_the_same():
    torch.manual_seed(0)
    settings = dict(coefficients=(3.4445, -4.775, 2.0315), steps=5, eps=1e-7)
    for shape in ((64, 24), (24, 64)):
        matrix = torch.randn(shape)
        exact = orthogonalize(matrix.double(), **settings)  # float64 uses the long way
        assert (orthogonalize(matrix, **settings) - exact).abs().max() < 1e-5


def test_a_schedule_scales_both_learning_rates():
    optimizer = MuonWithAdamWFactory()(small_model(), **SETTINGS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.015, 0.00225])


def test_frozen_parameters_are_left_out_and_nothing_to_train_is_an_error():
    model = small_model()
    model.model.layers[0].mlp.requires_grad_(False)
    matrices, _ = matrices_and_others(model)
    assert len(matrices) == 4
    model.model.layers.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable linear layer for Muon; use optimizer: adamw"):
        matrices_and_others(model)


def test_muon_in_float32_takes_torchs_steps_up_to_the_rounding_of_bfloat16():
    results = []
    for muon_class in (torch.optim.Muon, MuonInFloat32):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 8), (8, 24), (16, 16))]
        before = [weight.detach().clone() for weight in weights]
        optimizer = muon_class(weights, lr=0.02, weight_decay=0.1, adjust_lr_fn="original")
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape)
            optimizer.step()
        results.append(([w.detach() - b for w, b in zip(weights, before, strict=True)], optimizer.state_dict()["state"]))
    (torchs, torchs_state), (ours, our_state) = results
    for theirs, mine in zip(torchs, ours, strict=True):
        assert theirs.norm() > 0.05
        assert (mine - theirs).norm() < 0.02 * theirs.norm()
    for index, state in torchs_state.items():
        assert torch.equal(our_state[index]["momentum_buffer"], state["momentum_buffer"])  # so a checkpoint works with both


def test_orthogonalizing_brings_all_singular_values_near_one():
    matrix = orthogonalize(torch.randn(32, 12), coefficients=(3.4445, -4.775, 2.0315), steps=5, eps=1e-7)
    assert matrix.shape == (32, 12)
    values = torch.linalg.svdvals(matrix)
    assert 0.5 < values.min() < values.max() < 1.3


def test_an_optimizer_of_another_package_is_one_entry(monkeypatch, tmp_path):
    def plain_descent(settings):
        return torch.optim.SGD, dict(lr=settings.learning_rate)

    reason = "plain descent has no second moment; leave it out."
    monkeypatch.setitem(OPTIMIZERS, "descent", Optimizer(plain_descent, refuses={"adam_beta2": reason}))
    words = ["--dataset", "rows", "--output_dir", str(tmp_path / "out"), "--optimizer", "descent", "--learning_rate", "0.5"]
    args = parse_arguments(PretrainArguments, words)
    assert trainer_optimizer(args.optimizer, args.optimizer_settings()) == (torch.optim.SGD, {"lr": 0.5})
    with pytest.raises(UserError, match="adam_beta2 is 0.9; plain descent has no second moment"):
        parse_arguments(PretrainArguments, [*words, "--adam_beta2", "0.9"])


def test_adamw_is_left_to_trainers_own_choice(tmp_path):
    args = PretrainArguments(dataset="rows", output_dir=str(tmp_path), optimizer="adamw")
    assert trainer_optimizer(args.optimizer, args.optimizer_settings()) is None
