"""A checkpoint holds what its tensors own, and nothing else is changed by that."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.engines.restore_check import first_difference
from pbt_flow.population.checkpoints import copy_state, load_state, save_state
from pbt_flow.population.compact_state import write_state

MUCH = 1 << 18
"""Numbers: a mebibyte of floats."""


def written(state: Any) -> bytes:
    buffer = io.BytesIO()
    write_state(state, buffer)
    return buffer.getvalue()


def plain(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def much(kind: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(MUCH).to(kind)


def bits(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor's numbers, in order."""
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


VIEWS = {
    "the first number": lambda x: x[:1],
    "one in the middle": lambda x: x[1000],
    "nothing": lambda x: x[:0],
    "nothing from the middle": lambda x: x[1000:1000],
    "a column": lambda x: x.view(512, 512)[:, 3],
    "every thousandth": lambda x: x[5::1000],
    "a block": lambda x: x.view(512, 512)[3:5, 7:9],
    "a block, transposed": lambda x: x.view(512, 512)[3:5, 7:9].T,
    "one number many times": lambda x: x[7:8].expand(1000),
    "of odd place and size": lambda x: x[1001:1004],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.complex64], ids=str
)
def test_a_view_costs_what_it_owns(view, kind):
    tensor = VIEWS[view](much(kind))
    state = {"deep": [{"x": tensor}]}
    found = read(written(state))["deep"][0]["x"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert bits(found) == bits(tensor)
    # The file's own frame, and what an aligned record takes.
    alone = plain({"deep": [{"x": tensor.clone()}]})
    assert len(written(state)) <= len(alone) + 64
    assert len(plain(state)) > 100_000


def test_a_parameter_and_a_tensor_with_a_gradient_stay_what_they_are():
    state = {"p": torch.nn.Parameter(much()[:3]), "x": much()[:2].requires_grad_()}
    found = read(written(state))
    assert isinstance(found["p"], torch.nn.Parameter)
    assert found["x"].requires_grad
    assert len(written(state)) < 4000


def test_what_shares_numbers_goes_on_sharing_them():
    x = much()
    state = {"a": x[10:14], "b": x[12:16], "same": x[10:14], "part": x[10:14].view(2, 2)[0]}
    found = read(written(state))
    assert len(written(state)) < 4000
    found["a"][3] = -1.0
    assert found["b"].tolist() == [12.0, -1.0, 14.0, 15.0]
    assert found["same"].tolist() == [10.0, 11.0, 12.0, -1.0]
    found["a"][0] = -2.0
    assert found["part"].tolist() == [-2.0, 11.0]


def test_what_shares_no_number_is_written_apart():
    matrix = much().view(512, 512)
    state = {"first": matrix[:, 0], "second": matrix[:, 1], "tied": matrix[:, 1]}
    state |= {"block": matrix[5:7, 7:9], "in the block": matrix[6, 8]}
    found = read(written(state))
    assert len(written(state)) < 512 * 8 + 6000
    assert not first_difference(found, state, "state")
    found["tied"][5] = -1
    found["in the block"].fill_(-2)
    assert (found["second"][5], found["block"][1, 1], found["first"][5]) == (-1, -2, 5 * 512)


def test_tensors_of_two_types_in_one_storage_keep_their_bits():
    x = torch.zeros(MUCH, dtype=torch.int32)
    state = {"number": x[4:6], "again": x[4:6].view(torch.float32)}
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        plain(state)
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        written(state)
    x[4] = torch.tensor([1.5]).view(torch.int32)[0]
    apart = {"number": x[:2], "other": x[4:6].view(torch.float32)}
    assert read(written(apart))["other"].tolist() == [1.5, 0.0]


def network() -> dict[str, Any]:
    """A model with tied weights, an optimiser, a recurrent part, buffers and generators."""
    torch.manual_seed(0)
    embedding, out = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False)
    out.weight = embedding.weight
    net = torch.nn.ModuleDict(
        {"in": embedding, "rnn": torch.nn.LSTM(8, 8), "norm": torch.nn.BatchNorm1d(8), "out": out}
    )
    optimizer = torch.optim.Adam(net.parameters(), fused=False)
    net["out"](net["rnn"](net["in"](torch.arange(5)))[0]).sum().backward()
    optimizer.step()
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "sparse": torch.eye(3).to_sparse(),
        "half": much()[: MUCH // 2],
        "conjugate": torch.ones(3, dtype=torch.complex64).conj(),
        "plain": [1, "two", None, {3: (4.0, b"5")}, {6}, OrderedDict(seven=7)],
    }


def test_a_usual_state_is_written_as_it_always_was():
    state = network()
    assert written(state) == plain(state)
    found = read(written(state))
    weights = found["net"]["in.weight"], found["net"]["out.weight"]
    assert weights[0].data_ptr() == weights[1].data_ptr()


def test_tied_weights_stay_tied_beside_a_view():
    state = network() | {"row": much()[:1]}
    found = read(written(state))
    assert len(written(state)) < len(plain(state)) - 4 * MUCH + 200
    weights = found["net"]["in.weight"], found["net"]["out.weight"]
    assert weights[0].data_ptr() == weights[1].data_ptr()
    expected = read(plain(state))
    assert (found.pop("sparse").to_dense() == expected.pop("sparse").to_dense()).all()
    assert not first_difference(found, expected, "state")


def test_tied_views_of_a_large_storage_are_tied_after_a_restore(tmp_path: Path):
    large = much()
    state = {"encoder": large[:64], "decoder": large[:64]}
    checkpoint = save_state(state, member=0, turn=1, root=tmp_path)
    assert checkpoint.size < 4000
    for found in (load_state(checkpoint, tmp_path), copy_state(state)):
        found["encoder"].zero_()
        assert not found["decoder"].any()
    # What is saved is a copy: the task's own tensors are as they were.
    assert state["encoder"].data_ptr() == large.data_ptr()
    assert large[63] == 63


def test_a_state_that_holds_itself_and_one_with_odd_tensors_are_written():
    itself: dict[str, Any] = {"x": much()[:1]}
    itself["me"] = itself
    found = read(written(itself))
    assert found["me"] is found
    assert len(written(itself)) < 4000
    attributed = much()[:1]
    attributed.note = "mine"  # type: ignore[attr-defined]
    for odd in (
        attributed,
        torch.ones(4, device="meta")[:1],
        torch.ones(4, dtype=torch.complex64)[:1].conj(),
        much()[:1].untyped_storage(),
    ):
        assert written({"odd": odd}) == plain({"odd": odd})


def test_a_storage_that_somebody_needs_whole_is_written_whole():
    x = much(torch.uint8)
    state = {"view": x[:1], "all": x.untyped_storage()}
    assert written(state) == plain(state)


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 6), st.integers(0, 4), st.integers(1, 9)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([torch.float64, torch.float32, torch.int16, torch.uint8]),
)
def test_any_views_of_one_storage_come_back_and_are_tied_as_they_were(parts, kind):
    large = torch.arange(2000).to(kind)
    state = {
        str(n): torch.as_strided(large, (rows, columns), (step, 1), offset)
        for n, (offset, rows, columns, step) in enumerate(parts)
    }
    expected, found = read(plain(state)), read(written(state))
    for name, view in state.items():
        assert bits(found[name]) == bits(view)
    # Written into by turns, both change alike wherever tensors share a number.
    for value, name in enumerate(state, 1):
        for those in (expected, found):
            if those[name].numel():
                those[name][-1, 0] = value
        for other in state:
            assert bits(found[other]) == bits(expected[other])
    assert len(written(state)) <= len(plain(state)) + 64
