"""Which accelerators there are, and which of them a worker takes."""

import pytest
import torch

from pbt_flow.utils import devices
from pbt_flow.utils.devices import (
    count_devices,
    device_error,
    take_device,
    usable_device,
    usual_workers,
    visible_devices,
)

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, of which torch sees what the variable leaves it."""

    def has(gpus, environ, driver_was_asked=False):
        first = environ.get(VISIBLE)

        def count():
            variable = first if driver_was_asked else environ.get(VISIBLE)
            return gpus if variable is None else min(gpus, len(visible_devices(variable)))

        monkeypatch.setattr(torch.cuda, "device_count", count)
        return environ

    return has


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        ("0", ["0"]),
        ("2, 5", ["2", "5"]),
        ("GPU-8932f937-d72c,MIG-1", ["GPU-8932f937-d72c", "MIG-1"]),
        ("", []),
        ("-1", []),
        ("3,-1,4", ["3"]),
        ("1,1,2", ["1"]),
        ("NoDevFiles", []),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(variable, names):
    assert visible_devices(variable) == names


def test_workers_take_the_gpus_in_turn_and_see_no_other(machine):
    seen = []
    for index in range(5):
        environ = machine(2, {})
        assert take_device("cuda", index, environ) == "cuda"
        seen.append(environ[VISIBLE])
    assert seen == ["0", "1", "0", "1", "0"]


def test_workers_take_only_what_a_scheduler_has_left_them(machine):
    seen = []
    for index in range(3):
        environ = machine(8, {VISIBLE: "5,GPU-77"})
        assert take_device("cuda", index, environ) == "cuda"
        seen.append(environ[VISIBLE])
    assert seen == ["5", "GPU-77", "5"]


def test_a_gpu_that_is_asked_for_by_number_is_taken_by_all_workers(machine):
    for index in range(3):
        environ = machine(4, {VISIBLE: "6,7,4,2"})
        assert take_device("cuda:1", index, environ) == "cuda"
        assert environ[VISIBLE] == "7"


@pytest.mark.parametrize("before", [None, "3,4"])
def test_a_worker_whose_task_has_asked_the_driver_names_its_gpu_by_number(machine, before):
    environ = machine(8, {} if before is None else {VISIBLE: before}, driver_was_asked=True)
    kept = dict(environ)
    assert take_device("cuda", 1, environ) == "cuda:1"
    assert environ == kept


def test_where_there_is_no_such_accelerator_the_name_stays_for_the_error_that_tells_of_it(machine):
    environ = machine(1, {})
    assert take_device("cuda:3", 0, environ) == "cuda:3"
    assert take_device("cuda", 0, machine(0, environ)) == "cuda"
    assert take_device("cpu", 7, environ) == "cpu"
    assert take_device("cdua", 0, environ) == "cdua"
    assert environ == {}


def test_accelerators_are_counted_by_what_this_process_may_use(machine):
    assert count_devices("cuda", machine(4, {})) == 4
    assert count_devices("cuda", {VISIBLE: "0,2"}) == 2
    assert count_devices("cuda:3", {}) == count_devices("cpu", {}) == 1
    assert count_devices("cdua", {}) == 0


def test_there_is_a_worker_for_each_gpu_and_else_for_each_core(machine, monkeypatch):
    machine(4, {})
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(devices, "count_cores", lambda: 12)
    assert usual_workers("cuda") == 4
    assert usual_workers("cuda:2") == 1
    for on_cores in (None, "cpu", "", 3):
        assert usual_workers(on_cores) == 12
    machine(0, {})
    assert usual_workers("cuda") == 1


def test_a_device_that_cannot_be_used_is_told_of_with_the_way_out():
    assert device_error("cpu") == ""
    told = device_error("gpu")
    assert told.startswith("the device gpu cannot be used here: torch knows none of that name, and")
    assert "calls a GPU cuda, mps or xpu; here there " in told
    # What torch knows and this machine has not, torch tells of itself.
    assert "maia cannot be used here (" in device_error("maia")
    assert device_error("maia").endswith("; give another, such as cpu")


def test_a_model_is_looked_at_on_the_cpu_where_its_device_is_missing():
    assert usable_device("cdua") == usable_device("cpu") == "cpu"
    assert usable_device("meta") == "cpu"  # nothing can be read from it
