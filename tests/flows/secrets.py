"""Secrets in the environment of a run, and the search for them in all that it leaves behind."""

from __future__ import annotations

from pathlib import Path

SECRET = b"hunter2"
OPENS = SECRET.decode()
REMOTE = f"https://somebody:{OPENS}@127.0.0.1:1/store?sig={OPENS}"
AWAY = f"http://somebody:{OPENS}@127.0.0.1:1"
ENVIRONMENT = {
    **dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), f"hf_{OPENS}abcdefghijklmnop"),
    **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"), f"{OPENS}/+abc"),
    "AWS_ACCESS_KEY_ID": f"AKIA{OPENS}",
    "MLFLOW_TRACKING_TOKEN": OPENS,
    "PREFECT_API_KEY": f"pnu_{OPENS}",
    "WANDB_API_KEY": OPENS,
    "GITHUB_TOKEN": f"ghp_{OPENS}",
    "SLACK_WEBHOOK": f"https://hooks/{OPENS}",
}
# what DVC keeps passwords in, and git does not
LOCAL = f"['remote \"team\"']\n    url = {REMOTE}\n    password = {OPENS}\n"


def leaks(root: Path) -> list[Path]:
    """Files below a folder that hold a secret, in their bytes or in their name; but for what holds secrets by its purpose."""
    found = []
    for path in root.rglob("*"):
        if path.as_posix().endswith("/.dvc/config.local"):
            continue
        if SECRET in path.name.encode() or (path.is_file() and SECRET in path.read_bytes()):
            found.append(path)
    return found
