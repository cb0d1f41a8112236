"""Multiple-choice questions: read as they were written, and what is none is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronlens.errors import DatasetError
from neuronlens.questions import Question, read_questions

RIGHT = {"question": "Which?", "choices": ["one", "two", "three"], "answer": 2}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1).filter(str.strip),
            st.lists(st.text(), min_size=2, max_size=26),
            st.integers(0, 25),
            st.booleans(),
            st.none() | st.text(),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_questions_are_read_as_they_were_written(tmp_path_factory, given, ascii_only):
    """Also with line separators inside a text, which JSON need not escape."""
    lines, expected = [], []
    for text, choices, place, as_letter, subject in given:
        answer = place % len(choices)
        written = chr(ord("A") + answer) if as_letter else answer
        value = {"question": text, "choices": choices, "answer": written, "source": 7}
        lines.append(json.dumps(value | ({} if subject is None else {"subject": subject}), ensure_ascii=ascii_only))
        expected.append(Question(text, tuple(choices), answer, subject))
    file = tmp_path_factory.getbasetemp() / "questions.jsonl"
    file.write_bytes("\r\n\n".join(lines).encode())
    assert read_questions(str(file)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('["Which?"]', "is no JSON object. Write"),
        ({"question": None}, "'question' is no text"),
        ({"question": " "}, "'question' is no text"),
        ({"choices": "one, two"}, "'choices' is no list of texts. Put every choice in quotes."),
        ({"choices": [1, 2]}, "'choices' is no list of texts"),
        ({"choices": ["one"], "answer": 0}, "has 1 choices. A question takes 2 to 26."),
        ({"choices": ["x"] * 27}, "has 27 choices"),
        ({"answer": 3}, "'answer' 3 is none of the 3 choices. Write a number from 0 to 2 or a letter from A to C."),
        ({"answer": -1}, "'answer' -1 is none"),
        ({"answer": "D"}, "'answer' 'D' is none"),
        ({"answer": "AB"}, "'answer' 'AB' is none"),
        ({"answer": ""}, "'answer' '' is none"),
        ({"answer": True}, "'answer' True is none"),
        ({"answer": 1.0}, "'answer' 1.0 is none"),
        ({"subject": 3}, "'subject' is no text"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, message):
    file = tmp_path / "questions.jsonl"
    wrong = line if isinstance(line, str) else json.dumps(RIGHT | line)
    file.write_text(f"{json.dumps(RIGHT)}\n\n{wrong}\n")
    with pytest.raises(DatasetError) as caught:
        read_questions(str(file))
    assert str(caught.value).startswith(f"{file}:3: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", RIGHT)
def test_a_question_that_lacks_a_part_is_named(tmp_path, key):
    (tmp_path / "q.jsonl").write_text(json.dumps({name: part for name, part in RIGHT.items() if name != key}))
    with pytest.raises(DatasetError, match=rf"q\.jsonl:1: lacks '{key}'\. It has: "):
        read_questions(str(tmp_path / "q.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"evaluate\.questions: .*none\.jsonl: no such file.*--set evaluate\.questions=null"),
        ("empty.jsonl", b"\n \n", "holds no question"),
        ("latin.jsonl", b"\xe9", "is not UTF-8"),
    ],
)
def test_questions_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_questions(str(tmp_path / name))
