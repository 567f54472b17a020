"""This module mirrors a run to MLflow: to a server, or to a file store or database on this machine.

A run of MLflow is found again by the tag `peft_vision.run`; a run that goes on continues it, and an epoch that is there
already is not sent again. The requests are few and soon give up, so that a server that is down costs seconds.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from peft_vision.core.config import ConfigError, component
from peft_vision.core.stopping import Stopped
from peft_vision.tracker.trackers import Log, Tracker, flat, numbers, require

_TAG = "peft_vision.run"
_LONGEST = 500  # characters of a parameter; older servers take no more
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}


@component
class MlflowTracker(Tracker):
    """A tracker that mirrors to MLflow, by its own client. `uri`: of the server or the store; None: as MLflow chooses,
    which reads MLFLOW_TRACKING_URI. `experiment`: created where there is none. `timeout`: seconds for each request."""

    uri: str | None
    experiment: str
    timeout: Annotated[int, Field(gt=0)]

    def check(self) -> None:
        require("mlflow", extra="mlflow")
        if not self.experiment.strip():
            raise ConfigError(f"tracker.experiment: got {self.experiment!r}, MLflow takes a name")

    @contextmanager
    def open(
        self,
        *,
        run_id: str,
        name: str,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        config: Mapping[str, Any],
        folder: Path,
    ) -> Iterator[Log]:
        """Open the run, as running; it is finished, failed or killed with the block."""
        with _patient(self.timeout):
            from mlflow.tracking import MlflowClient  # here, because it takes seconds that --help must not

            for library in ("mlflow", "alembic"):  # which tell of every table that they make
                logging.getLogger(library).setLevel(logging.WARNING)
            client = MlflowClient(tracking_uri=self.uri)
            experiment = _experiment(client, self.experiment)
            found = client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{run_id}'", max_results=1)
            if found:
                client.update_run(found[0].info.run_id, status="RUNNING")
            else:
                said = {_TAG: run_id, "group": group or "", "job_type": job_type, "tags": ", ".join(tags)}
                found = [client.create_run(experiment, run_name=name, tags={**said, "folder": str(folder)})]
                _send_config(client, found[0].info.run_id, config)
            status = "FAILED"
            try:
                yield _MlflowLog(client, found[0])
                status = "FINISHED"
            except (KeyboardInterrupt, Stopped):
                status = "KILLED"
                raise
            finally:
                client.set_terminated(found[0].info.run_id, status=status)


class _MlflowLog(Log):
    """A log that sends to one run of MLflow."""

    def __init__(self, client: Any, run: Any) -> None:
        self._client = client
        self._id = run.info.run_id
        self._last = int(run.data.metrics.get("epoch", -1))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step > self._last:
            self._send({**values, "epoch": step}, step)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._send(values, max(self._last, 0))

    def pictures(self, files: Mapping[str, Path]) -> None:
        for file in files.values():
            self._client.log_artifact(self._id, str(file))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        content = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._client.log_dict(self._id, content, f"{name}.json")

    def _send(self, values: Mapping[str, Any], step: int) -> None:
        from mlflow.entities import Metric

        self._last = max(self._last, step)
        now = int(1000 * time.time())
        sent = [Metric(name, value, now, step) for name, value in numbers(values).items()]
        self._client.log_batch(self._id, metrics=sent)


def _experiment(client: Any, name: str) -> str:
    """Return the id of the experiment of this name; another process may create it at the same time."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException:
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return found.experiment_id


def _send_config(client: Any, run_id: str, config: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    params = [Param(key, str(value)[:_LONGEST]) for key, value in flat(config).items()]
    client.log_batch(run_id, params=params)  # in as many requests as MLflow's limit asks for


@contextmanager
def _patient(timeout: int) -> Iterator[None]:
    """Let MLflow's requests give up after `timeout` seconds and one more try, unless its variables say otherwise."""
    wanted = {**_PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout)}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
