"""Defaults for what reads the environment when it is imported: quiet, private, patient. Whatever the user has set wins."""

from __future__ import annotations

import os

# Prefect logs a failing task's traceback before the exception reaches its caller, who is the one to show it; hence
# CRITICAL. After an interruption its services complain that the server they shared a process with has gone; hence their
# level too. A cold start of its local engine on a busy machine takes longer than the 20 s it allows by itself. Threads of
# torch that wait for each other must not spin: where a core is busy with something else, a small model runs four times slower.
_DEFAULTS = {
    "DASK_LOGGING__DISTRIBUTED": "error",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_WAIT_POLICY": "passive",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "TOKENIZERS_PARALLELISM": "false",
}


def set_environment() -> None:
    """Set what the user has left unset."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
