"""Logs the winner's model in MLflow's own format, and registers it under a name.

Everything goes through `MlflowClient` with explicit ids, since `mlflow.pytorch.log_model` would use
the active run and its experiment. A model is logged once. If a resume does not change the winner,
the model of before is found again.
"""

from __future__ import annotations

import contextlib
import logging
import sys
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
from pbt_flow.utils.scratch import temporary_folder

if TYPE_CHECKING:
    from torch import nn

_REQUIREMENTS = ("torch", "cloudpickle")
"""The packages that a logged model needs to be loaded."""
ALIAS = "champion"
"""The alias of a registered model's version: that of the winner that was registered last."""
_MODEL_TAG, _CHECKPOINT_TAG = "pbt.model", "pbt.checkpoint"


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
    """Log a model with a run, unless it is logged already.

    Args:
        client: A client of the store that holds the run.
        run_id: The population's run.
        model: The model, on the CPU and in evaluation mode.
        example: An input of the model, from which its signature is inferred; None for no signature.
        checkpoint: The digest of the state that the model is in.
        params: What MLflow shows as the model's params: the hyperparameters.
        step: The step that MLflow shows for the model.

    Returns:
        The id of the logged model.

    Raises:
        MlflowException: The store refuses.
    """
    run = client.get_run(run_id)
    found = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    begun = [model for model in found if model.tags.get(_CHECKPOINT_TAG) == checkpoint]
    if begun:
        # It is complete, or a process that was killed has begun it.
        logged = begun[0]
    else:
        logged = client.create_logged_model(
            run.info.experiment_id,
            name="winner",
            source_run_id=run_id,
            tags={_CHECKPOINT_TAG: checkpoint},
            params=dict(params),
        )
    model_id = str(logged.model_id)
    if run.data.tags.get(_MODEL_TAG) == model_id:
        return model_id
    with temporary_folder() as folder:
        place = Path(folder, "model")
        description = Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            model_id=model_id,
            model_uuid=model_id,
        )
        _save(model, example, place, description)
        client.log_model_artifacts(model_id, str(place))
    client.finalize_logged_model(model_id, "READY")
    outputs = run.outputs.model_outputs if run.outputs else ()
    if model_id not in [output.model_id for output in outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=step)])
    # The tag comes last, since it says that the model is complete.
    client.set_tag(run_id, _MODEL_TAG, model_id)
    return model_id


def register(
    client: MlflowClient, model_id: str, name: str, *, tags: Mapping[str, str], description: str
) -> str:
    """Make a logged model the newest version of a registered model, and its champion.

    Args:
        client: A client of the store that holds the logged model.
        model_id: The logged model.
        name: The registered model, which is made if it does not exist.
        tags: What is known of the version, for a new one.
        description: The same in a sentence.

    Returns:
        The version; if the logged model is the champion already, the version that it has.

    Raises:
        MlflowException: The registry refuses.
    """
    try:
        champion = client.get_model_version_by_alias(name, ALIAS)
        if champion.tags.get(_MODEL_TAG) == model_id:
            return str(champion.version)
    except MlflowException as error:
        # The registered model or its alias may not exist yet.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id = client.get_logged_model(model_id).source_run_id
    version = client.create_model_version(
        name,
        f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        tags={**tags, _MODEL_TAG: model_id},
        description=description,
    )
    client.set_registered_model_alias(name, ALIAS, version.version)
    return str(version.version)


def save_model(model: nn.Module, example: NDArray[Any] | None, place: Path) -> None:
    """Save a model in MLflow's own format in a folder, which belongs to no store.

    Args:
        model: The model, on the CPU and in evaluation mode.
        example: An input of the model, from which its signature is inferred; None for no signature.
        place: The folder, which must not exist.
    """
    _save(model, example, place, Model())


def _save(model: nn.Module, example: NDArray[Any] | None, place: Path, description: Model) -> None:
    """Save a model and what MLflow says about it in a folder."""
    import cloudpickle

    # A class from a file that another process cannot import by name is pickled with its code.
    class_modules = {type(part).__module__ for part in model.modules()}
    by_value = [sys.modules[name] for name in class_modules if is_nameless(name)]
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        with _without_warnings():
            import mlflow.pytorch

            mlflow.pytorch.save_model(
                model,
                str(place),
                mlflow_model=description,
                signature=_signature(model, example),
                input_example=example,
                # If they are not given, MLflow imports the model in another process to infer them.
                pip_requirements=[
                    f"{name}=={_public_version(version(name))}" for name in _REQUIREMENTS
                ],
                # A traced graph loses the class and its methods, and not every model can be traced.
                serialization_format="pickle",
            )
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _public_version(text: str) -> str:
    """Return a version without the label of its build: `2.13.0` for `2.13.0+cpu`."""
    return text.partition("+")[0]


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence MLflow while it saves a model.

    It warns of pickle at each save, of which docs/security.md warns once, and of its own code.
    """
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
    """Return the model's signature; False, which MLflow takes for none, if there is no example."""
    if example is None:
        return False
    import torch
    from mlflow.models import infer_signature

    with torch.no_grad():
        out = model(torch.from_numpy(example))
    return infer_signature(example, out.numpy() if isinstance(out, torch.Tensor) else None)
