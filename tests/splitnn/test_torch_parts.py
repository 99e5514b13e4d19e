"""The pieces of torch: what they compute, what they keep, and that they leave the user's torch alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import ConfigError, DataError
from vfl.job import SplitNN
from vfl.torch_parts import (
    activate,
    calm,
    layers,
    make_optimizer,
    module_arrays,
    need_torch,
    optimizer_arrays,
    restore_module,
    restore_optimizer,
    seed_of,
)

OPTIMIZERS = ("adam", "adamw", "sgd", "sgd with momentum", "rmsprop", "adagrad")
TORCHS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop", "adagrad": "Adagrad"}


def settings_of(name: str, **more: Any) -> SplitNN:
    momentum = 0.9 if "momentum" in name else 0.0
    return SplitNN(optimizer=name.split()[0], momentum=momentum, learning_rate=0.05, **more)  # type: ignore[arg-type]


def small_net(seed: int = 1) -> torch.nn.Sequential:
    with calm(seed):
        return layers((4, 5, 2), "tanh", 0.0)


def take_steps(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    X = torch.linspace(-1, 1, 12).reshape(3, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward((module(X) ** 2).sum())
        optimizer.step()


def test_torch_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, vfl, vfl.torch_parts, vfl.epochs, vfl.plain_network; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_torch_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    need_torch("model 'splitnn'")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        need_torch("model 'splitnn'")
    text = str(caught.value)
    assert text.startswith("model 'splitnn' needs torch") and "pip install 'vfl[nn]'" in text and "\n" not in text
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in text


@given(st.lists(st.integers(0, 2**63) | st.text(), max_size=4), st.lists(st.integers(0, 2**63) | st.text(), max_size=4))
def test_seeds_differ_where_words_do(left: list[str | int], right: list[str | int]) -> None:
    assert 0 <= seed_of(*left) < 2**63
    assert (seed_of(*left) == seed_of(*right)) == (left == right)


def test_words_are_not_run_together() -> None:
    assert len({seed_of("ab", "c"), seed_of("a", "bc"), seed_of("abc"), seed_of(1, "2"), seed_of("1", 2)}) == 5


class TestCalm:
    def test_puts_threads_dtype_and_random_state_back(self) -> None:
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        try:
            with calm(5):
                assert torch.get_num_threads() == 1 and torch.get_default_dtype() == torch.float32
                torch.rand(3)
            assert torch.get_num_threads() == 2 and torch.get_default_dtype() == torch.float64
            with pytest.raises(ZeroDivisionError), calm(5):
                torch.rand(3)
                raise ZeroDivisionError
            assert torch.get_num_threads() == 2 and torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_num_threads(threads)
        assert torch.equal(torch.get_rng_state(), before)

    def test_seeds_what_is_drawn_inside(self) -> None:
        def drawn(seed: int) -> list[float]:
            with calm(seed):
                return torch.rand(4).tolist()

        assert drawn(2**63 - 1) == drawn(2**63 - 1) != drawn(3)

    def test_has_gradients_whatever_the_user_switched_off(self) -> None:
        for off in (torch.no_grad(), torch.inference_mode()):
            with off, calm(1):
                weight = torch.ones(2, requires_grad=True)
                torch.autograd.backward((weight**2).sum())
                assert weight.grad is not None and weight.grad.tolist() == [2.0, 2.0]
        assert torch.is_grad_enabled()

    def test_lets_one_thread_in_at_a_time(self) -> None:
        inside, together = [0], []

        def enter() -> None:
            for _ in range(50):
                with calm(1):
                    inside[0] += 1
                    together.append((inside[0], float(torch.rand(()))))
                    inside[0] -= 1

        threads = [threading.Thread(target=enter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(together) == 200 and len(set(together)) == 1


class TestLayers:
    def test_lie_between_inputs_and_outputs(self) -> None:
        kinds = [type(part).__name__ for part in layers((4, 6, 5, 1), "gelu", 0.25)]
        assert kinds == ["Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear"]
        assert [type(part).__name__ for part in layers((4, 1), "relu", 0.5)] == ["Linear"]
        assert [tuple(p.shape) for p in layers((4, 6, 1), "relu", 0.0).parameters()] == [(6, 4), (6,), (1, 6), (1,)]

    @pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"])
    def test_have_torchs_activation_of_that_name(self, name: str) -> None:
        x = torch.linspace(-3, 3, 7)
        expected = getattr(torch, name) if name in ("tanh", "sigmoid") else getattr(torch.nn.functional, name)
        assert torch.equal(torch.nn.Sequential(*activate(name, 0.0))(x), expected(x))

    def test_are_float32_whatever_the_users_default_is(self) -> None:
        torch.set_default_dtype(torch.float64)
        try:
            assert {p.dtype for p in layers((2, 3, 1), "relu", 0.0).parameters()} == {torch.float32}
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestOptimizers:
    def test_are_torchs(self, name: str) -> None:
        mine, theirs, settings = small_net(), small_net(), settings_of(name, weight_decay=0.01)
        take_steps(mine, make_optimizer(settings, mine.parameters()), 3)
        more = {"momentum": settings.momentum} if settings.momentum else {}
        made = getattr(torch.optim, TORCHS[settings.optimizer])
        take_steps(theirs, made(theirs.parameters(), lr=0.05, weight_decay=0.01, **more), 3)
        for left, right in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)

    def test_go_on_as_if_nothing_had_been(self, name: str) -> None:
        settings, whole, first, second = settings_of(name), small_net(), small_net(), small_net(seed=2)
        take_steps(whole, make_optimizer(settings, whole.parameters()), 5)
        optimizer = make_optimizer(settings, first.parameters())
        take_steps(first, optimizer, 2)
        arrays = module_arrays(first, "net.") | optimizer_arrays(optimizer, "opt.")
        goes_on = make_optimizer(settings, second.parameters())
        restore_module(second, arrays, "net.")
        restore_optimizer(goes_on, settings, arrays, "opt.")
        take_steps(second, goes_on, 3)
        for left, right in zip(whole.parameters(), second.parameters(), strict=True):
            assert torch.equal(left, right)

    def test_may_have_nothing_to_do(self, name: str) -> None:
        make_optimizer(settings_of(name), []).step()


class TestState:
    def test_is_a_copy_of_parameters_and_of_every_buffer(self) -> None:
        module = torch.nn.BatchNorm1d(2)
        module.register_buffer("hidden", torch.tensor([1.0]), persistent=False)
        kept = module_arrays(module, "m.")
        assert sorted(kept) == [
            "m.bias", "m.hidden", "m.num_batches_tracked", "m.running_mean", "m.running_var", "m.weight"
        ]  # fmt: skip
        before = {name: array.copy() for name, array in kept.items()}
        module(torch.tensor([[1.0, 2.0], [3.0, 7.0]]))
        with torch.no_grad():
            module.weight.add_(1)
        assert all(np.array_equal(kept[name], before[name]) for name in kept)
        restore_module(module, kept, "m.")
        assert all(np.array_equal(module_arrays(module, "m.")[name], before[name]) for name in kept)

    def test_leaves_the_arrays_alone(self) -> None:
        module, kept = small_net(), module_arrays(small_net(seed=3), "")
        before = {name: array.copy() for name, array in kept.items()}
        restore_module(module, kept, "")
        take_steps(module, make_optimizer(settings_of("sgd"), module.parameters()), 1)
        assert all(np.array_equal(kept[name], before[name]) for name in kept)

    @pytest.mark.parametrize("damage", ["missing", "extra", "shape", "dtype", "scalar"])
    def test_of_another_module_is_refused(self, damage: str) -> None:
        arrays = module_arrays(small_net(), "net.")
        if damage == "missing":
            del arrays["net.0.bias"]
        elif damage == "extra":
            arrays["net.9.bias"] = np.zeros(1)
        elif damage == "scalar":
            arrays["net.0.bias"] = np.float32(1) * np.ones((), np.float32)
        else:
            arrays["net.0.bias"] = np.zeros(6, np.float32) if damage == "shape" else np.zeros(5)
        with pytest.raises(DataError, match=r"net\.(0|9)\.bias") as caught:
            restore_module(small_net(), arrays, "net.")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", OPTIMIZERS)
    @pytest.mark.parametrize("damage", ["name", "number", "shape", "dtype"])
    def test_of_another_optimizer_is_refused(self, name: str, damage: str) -> None:
        settings, module = settings_of(name), small_net()
        kept = "momentum_buffer" if "sgd" in name else "step"
        shape = (5, 4) if "sgd" in name else ()
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "name": {"o.0.other": np.zeros(())},
            "number": {f"o.4.{kept}": np.zeros(shape, np.float32)},
            "shape": {f"o.0.{kept}": np.zeros((5, 5), np.float32)},
            "dtype": {f"o.0.{kept}": np.zeros(shape, np.int64)},
        }[damage]
        with pytest.raises(DataError, match=r"o\.[04]\."):
            restore_optimizer(make_optimizer(settings, module.parameters()), settings, arrays, "o.")

    def test_of_half_an_optimizer_is_refused(self) -> None:
        settings, module = settings_of("adam"), small_net()
        with pytest.raises(DataError, match="lacks a part"):
            restore_optimizer(
                make_optimizer(settings, module.parameters()), settings, {"o.0.step": np.ones((), np.float32)}, "o."
            )
