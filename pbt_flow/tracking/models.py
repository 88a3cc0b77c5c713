"""The winner's model in MLflow's own form: logged with its population, registered under a name.

It goes through `MlflowClient` and explicit ids, where `mlflow.pytorch.log_model` would ask for the
active run and its experiment. A model is logged once: after a resume that changed no winner, it is
found again.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from pbt_flow.task.files import is_nameless

if TYPE_CHECKING:
    from torch import nn

_NEEDS = ("torch", "cloudpickle")
ALIAS = "champion"
"""The version of a registered model that the last registered winner is."""
_MODEL, _CHECKPOINT = "pbt.model", "pbt.checkpoint"


def log_model(
    client: MlflowClient,
    run_id: str,
    model: nn.Module,
    example: NDArray[Any] | None,
    *,
    checkpoint: str,
    params: Mapping[str, str],
    step: int,
) -> str:
    """Log a model with a run, unless that has been done.

    Args:
        client: Of the store that holds the run.
        run_id: The population's run.
        model: On the CPU, in evaluation mode.
        example: An input of the model, which its signature is read from.
        checkpoint: The digest of the state that the model is in.
        params: Shown with the model: the hyperparameters, say.
        step: The step of the weights.

    Returns:
        The id of the logged model.

    Raises:
        MlflowException: The store refuses.
    """
    run = client.get_run(run_id)
    found = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    begun = [model for model in found if model.tags.get(_CHECKPOINT) == checkpoint]
    # One that was begun before a kill is ended now.
    logged = (
        begun[0]
        if begun
        else client.create_logged_model(
            run.info.experiment_id,
            name="winner",
            source_run_id=run_id,
            tags={_CHECKPOINT: checkpoint},
            params=dict(params),
        )
    )
    model_id = str(logged.model_id)
    if run.data.tags.get(_MODEL) == model_id:
        return model_id
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "model")
        own = Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            model_id=model_id,
            model_uuid=model_id,
        )
        _save(model, example, place, own)
        client.log_model_artifacts(model_id, str(place))
    client.finalize_logged_model(model_id, "READY")
    outputs = run.outputs.model_outputs if run.outputs else ()
    if model_id not in [output.model_id for output in outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=step)])
    # Last: it says that the model is whole.
    client.set_tag(run_id, _MODEL, model_id)
    return model_id


def register(client: MlflowClient, model_id: str, name: str) -> str:
    """Make a logged model the newest version of a registered one, and its champion.

    Args:
        client: Of the store that holds the logged model.
        model_id: The logged model.
        name: The registered model; it is made if there is none.

    Returns:
        The version; the one that there is, if the model is its champion already.

    Raises:
        MlflowException: The registry refuses.
    """
    try:
        champion = client.get_model_version_by_alias(name, ALIAS)
        if champion.tags.get(_MODEL) == model_id:
            return str(champion.version)
    except MlflowException as error:
        # Neither the model nor its alias need exist yet.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id = client.get_logged_model(model_id).source_run_id
    version = client.create_model_version(
        name, f"models:/{model_id}", run_id=run_id, model_id=model_id, tags={_MODEL: model_id}
    )
    client.set_registered_model_alias(name, ALIAS, version.version)
    return str(version.version)


def _save(model: nn.Module, example: NDArray[Any] | None, place: Path, own: Model) -> None:
    import cloudpickle

    # A class from a file that no other process can import travels with the model.
    files = [sys.modules[name] for name in {type(m).__module__ for m in model.modules()}]
    apart = [m for m in files if is_nameless(m.__name__)]
    for module in apart:
        cloudpickle.register_pickle_by_value(module)
    try:
        with _without_advice():
            import mlflow.pytorch

            mlflow.pytorch.save_model(
                model,
                str(place),
                mlflow_model=own,
                signature=_signature(model, example),
                input_example=example,
                # Found out by MLflow, they cost an import of everything in another process.
                pip_requirements=[f"{name}=={_public(version(name))}" for name in _NEEDS],
                # A traced graph loses the class and its methods, and not every model can be traced.
                serialization_format="pickle",
            )
    finally:
        for module in apart:
            cloudpickle.unregister_pickle_by_value(module)


def _public(number: str) -> str:
    """A version without the label of its build: `2.13.0` of `2.13.0+cpu`."""
    return number.partition("+")[0]


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """MLflow warns of pickle at each save (docs/security.md says it once) and of its own code."""
    logger = logging.getLogger("mlflow.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _signature(model: nn.Module, example: NDArray[Any] | None) -> ModelSignature | bool:
    """What goes in and what comes out; False if nobody gave an example."""
    if example is None:
        return False
    import torch
    from mlflow.models import infer_signature

    with torch.no_grad():
        out = model(torch.from_numpy(example))
    return infer_signature(example, out.numpy() if isinstance(out, torch.Tensor) else None)
