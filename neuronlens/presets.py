"""The presets: what `preset` sets of all that params.yaml leaves open."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # the reference's settings: mean |a|, 30 % of the neurons, mean +- 2 std against the whole neuron, set to zero at every position
    "official": {
        "fit": {"rows": "correct", "saliency": ["mean_abs"]},
        "interventions": {
            "ranges": ["gaussian", "full"],
            "tau": [2.0],
            "top": [0.3],
            "operators": ["zero"],
            "positions": "all",
            "controls": [],
            "tuned": None,
            "joint": [],
        },
    },
    # the reference's rows; beside them contrastive ranking, other doses, controls, and the tuned method
    "audited": {
        "fit": {"rows": "correct", "saliency": ["mean_abs", "d_prime"]},
        "interventions": {
            "ranges": ["gaussian", "full"],
            "tau": [2.0, 2.5],
            "top": [0.1, 0.3, 0.6, 1.0],
            "operators": ["zero"],
            "positions": "all",
            "controls": ["random_neurons", "random_ranges", "other_concept", "leace"],
            # gated ranges that move activations towards the other concepts' mean and beyond; docs/method.md says why
            "tuned": {
                "ranges": ["gaussian", "discriminative"],
                "tau": [2.0],
                "threshold": [1.0, 2.0],
                "saliency": ["separation"],
                "top": [0.3, 0.6],
                "gate": ["agreement"],
                "operators": ["steer:-0.5", "steer:-1", "steer:-2"],
            },
            "joint": [2],
        },
    },
}
