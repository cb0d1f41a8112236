"""What a short audit imports, but for Prefect, which reads the environment as it is imported. Nothing else is done here: see `forked`."""

from __future__ import annotations

import atexit
import gc
from importlib import import_module

from tasks.environment import set_environment

set_environment()  # before the imports, as the command line does

for name in (
    "altair",
    "duckdb",
    "dvc.cli",
    "dvc.commands.repro",
    "dvc.repo.metrics",
    "dvc.repo.params",
    "dvc.repo.plots",
    "dvc.utils.strictyaml",
    "flows.cli",
    "flows.configured",
    "flows.engine",
    "flows.watch",
    "jsonschema",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "neuronlens.activations.extract",
    "neuronlens.comparison.page",
    "neuronlens.evaluation.sweep",
    "neuronlens.plan",
    "neuronlens.ranges.fit",
    "neuronlens.report.neurons.card",
    "neuronlens.report.page",
    "pyarrow.dataset",
    "scmrepo.git",
    "sqlalchemy.dialects.sqlite",
    "tasks.around",
    "tasks.pages",
    "tests.models",
    "transformers.models.bert.modeling_bert",
    "transformers.models.gpt2.modeling_gpt2",
    "vl_convert",
):
    import_module(name)

gc.freeze()  # what is collected in a child would be copied for it first
atexit.register(gc.unfreeze)  # libraries complain of what is not taken down at the end
