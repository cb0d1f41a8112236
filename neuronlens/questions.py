"""Multiple-choice questions in MMLU's format, as they are given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from neuronlens.errors import DatasetError


@dataclass(frozen=True)
class Question:
    """A multiple-choice question.

    Attributes:
        text: the question itself.
        choices: 2 to 26 answers.
        answer: index of the right one.
        subject: what it is about, where the file says so.
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    subject: str | None = None


def read_questions(path: str) -> list[Question]:
    """The multiple-choice questions of a JSON Lines file in MMLU's format.

    A line is `{"question": text, "choices": [text, ...], "answer": index from 0 or letter from A, "subject": text or nothing}`; other keys
    are passed over.

    Raises:
        DatasetError: the file cannot be read or holds no question, or a line, which is named, is none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DatasetError(
            "no such file",
            where=f"evaluate.questions: {path}",
            cure="Name a JSON Lines file with a question a line, or --set evaluate.questions=null.",
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"is not UTF-8 ({error})", where=path, cure="Convert it.") from None
    # str.splitlines would also break at separators that JSON allows inside a string
    lines = [(place, line) for place, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DatasetError("holds no question", where=path, cure="Name a JSON Lines file with a question a line.")
    return [_question(line, f"{path}:{place}") for place, line in lines]


def _question(line: str, where: str) -> Question:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"is no JSON ({error})", where=where, cure="Write one JSON object a line.") from None
    if not isinstance(given, dict):
        raise DatasetError(
            "is no JSON object", where=where, cure='Write {"question": ..., "choices": [...], "answer": ...}.'
        )
    missing = [key for key in ("question", "choices", "answer") if key not in given]
    if missing:
        raise DatasetError(f"lacks {missing[0]!r}", where=where, cure=f"It has: {', '.join(given) or 'nothing'}.")
    text, choices, answer, subject = given["question"], given["choices"], given["answer"], given.get("subject")
    if not isinstance(text, str) or not text.strip():
        raise DatasetError("'question' is no text", where=where, cure="Write a question or remove the line.")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DatasetError("'choices' is no list of texts", where=where, cure="Put every choice in quotes.")
    if not 2 <= len(choices) <= len(ascii_uppercase):
        raise DatasetError(f"has {len(choices)} choices", where=where, cure="A question takes 2 to 26.")
    if subject is not None and not isinstance(subject, str):
        raise DatasetError("'subject' is no text", where=where, cure="Put it in quotes or leave it out.")
    letters = ascii_uppercase[: len(choices)]
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        answer = letters.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DatasetError(
            f"'answer' {answer!r} is none of the {len(choices)} choices",
            where=where,
            cure=f"Write a number from 0 to {len(choices) - 1} or a letter from A to {letters[-1]}.",
        )
    return Question(text, tuple(choices), answer, subject)
